"""Preference pairs from what a model writes: the transcript, and the attempt that is furthest from it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper
from attune.score.metrics import count_character_errors
from attune.text.normalise import characters, normalise
from attune.train.objective.hypotheses import FromHypotheses, Hypotheses
from attune.use.config import build, build_corpus, compose_run, read_config

CHOSEN = ("reference", "best")
KEPT = ("id", "language", "task", "speaker", "accent", "start_s", "end_s", "prompt")  # of a row, as it is


@dataclass(frozen=True)
class Wanted:
    """What `attune pairs` is asked for.

    Args:
        samples: attempts at each utterance, at least 1.
        temperature: that they are drawn at, above 0.
        beam: take the likeliest ones instead of drawing.
        chosen: the better side of a pair: reference, or best, the attempt with the fewest errors.
        limit: training utterances that are listened to, drawn by the seed; None for all.
        seed: of the draws.
    """

    samples: int = 8
    temperature: float = 1.0
    beam: bool = False
    chosen: str = "reference"
    limit: int | None = None
    seed: int = 0


def choose_config(run_or_model: str, words: Sequence[str]) -> Any:
    """Where the utterances come from: what the words for train.py say, or else the corpus of the run.

    Raises:
        InputError: there are no words, and no run either.
    """
    return compose_run(words) if words else read_config(Path(run_or_model))


def make_pairs(whisper: Whisper, config: Any, out: Path, wanted: Wanted) -> dict[str, int]:
    """Write OUT/train.jsonl and OUT/validation.jsonl, of pairs, and OUT/test.jsonl, of all utterances, for data=pairs.

    An utterance of which every attempt is right, or as good as the chosen text, makes no pair. In test it stands by
    itself, and so do all where chosen=best, for what is scored are the words that were said. Audio that is a file
    stays where it is; other audio is written to OUT/audio.

    Args:
        whisper: ready to listen.
        config: of a run, of which data and context are taken.

    Returns:
        pairs in each of the two, and utterances in the third.

    Raises:
        InputError: OUT is not empty, a setting makes no sense, or no attempt is worse than what is chosen.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty, and nothing is written over what exists. Give a new folder.")
    if wanted.chosen not in CHOSEN or wanted.samples < (2 if wanted.chosen == "best" else 1):
        raise InputError(
            f"chosen={wanted.chosen} of {wanted.samples} attempts: accepted are {' and '.join(CHOSEN)}, and with best "
            "at least 2 attempts."
        )
    if not wanted.beam and not wanted.temperature > 0:
        raise InputError(f"--temperature={wanted.temperature:g} must be above 0. The likeliest attempts: --beam.")
    data = read_data(whisper, config, wanted.limit, wanted.seed)
    out.mkdir(parents=True, exist_ok=True)
    counts = {
        split: _write(data, split, pair_up(whisper, data, split, wanted), out) for split in ("train", "validation")
    }
    pairs = dict(pair_up(whisper, data, "test", wanted)) if wanted.chosen == "reference" else {}
    counts["test"] = write_transcripts(data, "test", out, pairs)
    if not counts["train"]:
        raise InputError(
            "No attempt at a training utterance is worse than what is chosen, so there is no pair. Draw more of them "
            "(--samples), from a flatter distribution (--temperature), or of harder utterances."
        )
    return counts


def read_data(whisper: Whisper, config: Any, limit: int | None, seed: int) -> SpeechDataModule:
    """What attempts are made at: the corpus and the context of a config.

    Raises:
        InputError: the corpus cannot be used, or a CTC head writes.
    """
    if find_writer(whisper.network) is not None:
        raise InputError("Attempts are drawn from the decoder, and this model's CTC head writes.")
    data = SpeechDataModule(
        build_corpus(config.data),
        whisper.tokens,
        build(config.context),
        evaluation_batch_window_s=config.data.batch_window_s,  # each window is decoded several times at once
        max_rejected=config.data.max_rejected,
        workers=0,
        seed=seed,
        shots=limit,
        allow_leakage=True,  # nothing is scored here
    )
    data.prepare()
    return data


@torch.no_grad()
def pair_up(
    whisper: Whisper, data: SpeechDataModule, split: str, wanted: Wanted
) -> Iterator[tuple[str, dict[str, str]]]:
    """(id, {chosen, rejected}) of every utterance that makes a pair."""
    attempts = FromHypotheses(wanted.samples, wanted.temperature, anchor=0.0)
    attempts.seed = wanted.seed
    device = next(whisper.parameters()).device
    for batch in data.panel_dataloader(split):
        batch = batch.to(device)
        states = whisper.encode(batch.waveform)
        if wanted.beam:
            drawn = attempts.find(whisper, states, batch, wanted.samples)
        else:
            drawn = attempts.draw(whisper, states, batch)
        yield from choose_sides(batch, drawn, wanted.chosen)


def choose_sides(batch: Batch, drawn: Hypotheses, chosen: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Of each utterance the chosen text and the attempt with the most errors; nothing where that is not worse."""
    for utterance, id in enumerate(batch.ids):
        reference, language = batch.references[utterance], batch.languages[utterance]
        texts = drawn.texts[utterance * drawn.size : (utterance + 1) * drawn.size]
        errors = [count_errors(reference, text, language) for text in texts]
        worst = max(range(len(texts)), key=errors.__getitem__)
        best = min(range(len(texts)), key=errors.__getitem__)
        better, fewest = (reference.strip(), 0) if chosen == "reference" else (texts[best], errors[best])
        if errors[worst] > fewest and texts[worst] != better:
            yield id, {"chosen": better, "rejected": texts[worst]}


def count_errors(reference: str, hypothesis: str, language: str | None) -> int:
    """Wrong characters of normalised text: of two attempts with one wrong word the nearer one is better."""
    said, heard = (characters(normalise(text), language) for text in (reference, hypothesis))
    return count_character_errors(said, heard).total


def write_transcripts(
    data: SpeechDataModule, split: str, out: Path, pairs: Mapping[str, dict[str, str]] | None = None
) -> int:
    """Write OUT/SPLIT.jsonl, a manifest of all utterances, of those in `pairs` as pairs. How many there are."""
    texts = {row["id"]: {"text": row["text"]} for row in data.splits[split].remove_columns("audio").to_list()}
    return _write(data, split, {**texts, **(pairs or {})}.items(), out)


def _write(data: SpeechDataModule, split: str, found: Iterable[tuple[str, dict[str, str]]], out: Path) -> int:
    """Write rows as they come: a crash loses none of those before it. How many there are."""
    places = {id: index for index, id in enumerate(data.splits[split]["id"])}
    count = 0
    with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for id, texts in found:
            about = describe_utterance(data, split, places[id], out)
            file.write(json.dumps({**about, **texts}, ensure_ascii=False) + "\n")
            file.flush()
            count += 1
    return count


def describe_utterance(data: SpeechDataModule, split: str, index: int, out: Path) -> dict[str, Any]:
    """A row of a manifest in OUT, without its text."""
    row: Mapping[str, Any] = data.splits[split][index]
    kept = {name: row[name] for name in KEPT if row[name] is not None}
    return {"audio": _place_audio(row, out, f"{split}-{index:06d}"), **kept}


def _place_audio(row: Mapping[str, Any], out: Path, name: str) -> str:
    """Where the audio is: its own path, or a new file, relative to the folder."""
    if row["audio"]["bytes"] is None:
        return str(Path(row["audio"]["path"]).resolve())
    folder = out / "audio"
    folder.mkdir(exist_ok=True)
    kind = "wav" if row["audio"]["bytes"][:4] == b"RIFF" else "audio"  # libsndfile looks at the content, people do not
    path = folder / f"{re.sub(r'[^A-Za-z0-9-]', '-', name)}.{kind}"
    path.write_bytes(row["audio"]["bytes"])
    return str(path.relative_to(out))
