"""What is wrong with this corpus: every rejected row, its place and its reason, and what else is worth knowing.

One pass over every split: its texts, then its sound, the scored splits first, so that each learnt recording can be
looked up among them. What is kept of a row are some numbers; its sound is let go.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor

from attune.audio.waveform import AudioError, compute_fault
from attune.data.corpora.schema import REJECTED, read_segments
from attune.data.findings import ALWAYS, Findings, Rejection, read_rules
from attune.data.hearing import SplitSounds, judge_sound, load_recorded_row
from attune.data.leakage import ScoredRecordings
from attune.data.listening import choose_heard, expect_durations, find_suspects, hear
from attune.data.texts import Shared, SplitTexts, find_shared, iterate, judge_pace, read_names, read_texts
from attune.errors import InputError
from attune.text.counted import count_of
from attune.text.tokens import Sequence448, Tokens

LEARNT = ("train", "replay")  # the splits that a model learns from; all others are scored
SHOWN = 5  # examples in a message
SPECIAL = 6  # tokens beside the text: start, language, task, <|notimestamps|>, the end, and a space before the text


@dataclass
class Audit:
    """What was found in a corpus.

    Args:
        splits: what can be used, with `duration_s` filled in.
        rejections: what cannot.
        texts, sounds: of every split; each row is in them, but what is counted is of usable ones.
        shared: scored split -> what it has in common with what is learnt.
        not_compared: scored recordings of which only exact copies were looked for.
    """

    findings: Findings
    splits: dict[str, Dataset] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    texts: dict[str, SplitTexts] = field(default_factory=dict)
    sounds: dict[str, SplitSounds] = field(default_factory=dict)
    shared: dict[str, Shared] = field(default_factory=dict)
    not_compared: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """What one process tells the others: all but the rows, which each of them has read (`keep_usable`)."""
        return {**vars(self), "splits": {}}


def audit_corpus(
    splits: Mapping[str, Dataset],
    tokens: Tokens,
    rules: Mapping[str, Any] | None = None,
    max_rejected: float | None = None,
    listen_up_to: int | None = None,
) -> Audit:
    """Read every utterance once, and listen to it.

    Args:
        splits: split name -> dataset of the schema.
        rules: data.audit, as for `read_rules`.
        max_rejected: the share of a split's rows, in [0, 1], above which the run must not go on; None: report only.
        listen_up_to: recordings of a split that is learnt which are heard (data/listening.py); None: all.

    Raises:
        InputError: more than `max_rejected` of a split is unusable, or nothing is left of it; or a rule is none.
    """
    found = Audit(Findings(read_rules(rules)))
    for split, dataset in splits.items():
        found.texts[split] = read_texts(split, dataset, tokens, found.findings)
    hear_corpus(splits, found, max_rejected, listen_up_to)
    for split, dataset in splits.items():
        sounds = found.sounds[split]
        found.texts[split].leave_out(dataset, sounds.usable)
        durations_s = np.where(sounds.usable, sounds.duration_s, 0)
        judge_pace(split, dataset, found.texts[split], durations_s, found.findings)
        _compare_within(split, dataset, found.sounds[split], found.findings)
    learnt = [found.texts[split] for split in LEARNT if split in splits]
    for split, dataset in splits.items():
        if split not in LEARNT:
            found.shared[split] = find_shared(
                split, dataset, found.texts[split], found.sounds[split].usable, learnt, found.findings
            )
    _compare_validation(splits, found)
    return found


def check_leakage(found: Audit, allow: bool) -> None:
    """Refuse to score what is learnt.

    Raises:
        InputError: a recording stands on both sides, with the places of both; unless `allow`.
    """
    shared = found.findings.of("shared_audio")
    if allow or not shared or shared[0].severity != "error":
        return
    count = sum(rows for (rule, _), rows in found.findings.counts.items() if rule == "shared_audio")
    listed = "\n".join(f"  {finding.place} ({finding.split}) is {finding.reason}" for finding in shared[:SHOWN])
    raise InputError(
        f"{count_of(count, 'recording is', 'recordings are')} learnt and also scored, so the score would be of what is "
        f"known by heart:\n{listed}\n"
        "Take them out of one of the two (`attune audit` lists all), or go on all the same: data.allow_leakage=true."
    )


def check_texts(splits: Mapping[str, Dataset], tokens: Tokens) -> None:
    """Fail, before any weight is loaded, on a text, a language or a task that Whisper cannot hold, or an id that is
    scored twice.

    Raises:
        InputError: with the row's place.
    """
    for _, row, reason in find_text_faults(splits, tokens):
        raise InputError(f"{row['place']}: {reason}")


def find_text_faults(splits: Mapping[str, Dataset], tokens: Tokens) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(split, row, reason) of every row whose text, language or task Whisper cannot hold, or whose id another scored
    row of its split has: a prediction is known by its id."""
    room = tokens.max_tokens - len(tokens.prompt(None, room=tokens.max_tokens)) - SPECIAL
    kinds: set[tuple[str, str]] = set()  # that have passed once
    for split, dataset in splits.items():
        places: dict[str, str] = {}
        for row in iterate(dataset, [name for name in dataset.column_names if name != "audio"]):
            if split not in LEARNT and places.setdefault(row["id"], row["place"]) != row["place"]:
                told = f"the id {row['id']!r} is that of {places[row['id']]} too"
                yield split, row, f"{told}; each row of {split} needs its own, and without ids rows are numbered"
            # A token is at least a byte: what is short enough need not be cut into tokens to be known to fit.
            size = max(len(row["text"].encode()), len((row.get(REJECTED) or "").encode()))
            kind = (row["language"], row["task"])
            if size <= room and kind in kinds and not row["segments"]:
                continue
            try:
                encode_row(row, tokens)
                encode_rejected(row, tokens)
                kinds.add(kind)
            except InputError as error:
                yield split, row, str(error)


def encode_row(row: Mapping[str, Any], tokens: Tokens) -> Sequence448:
    """The decoder's input and labels for one row of the schema."""
    return tokens.sequence(row["text"], row["language"], row["task"], row["prompt"], read_segments(row))


def encode_rejected(row: Mapping[str, Any], tokens: Tokens) -> Sequence448 | None:
    """The same for the worse transcript of a pair; None for a row that is none."""
    if row.get(REJECTED) is None:
        return None
    return encode_row({**row, "text": row[REJECTED]}, tokens)


def reject_broken_audio(
    splits: Mapping[str, Dataset], max_rejected: float
) -> tuple[dict[str, Dataset], list[Rejection]]:
    """The sound alone: what can be used, with `duration_s` filled in, and what cannot.

    Raises:
        InputError: as `audit_corpus`.
    """
    found = Audit(Findings(read_rules(None)))
    hear_corpus(splits, found, max_rejected)
    return found.splits, found.rejections


def hear_corpus(
    splits: Mapping[str, Dataset], found: Audit, max_rejected: float | None, listen_up_to: int | None = None
) -> None:
    """Decode utterances once; set aside what cannot be used; look for what is learnt and scored."""
    scored = ScoredRecordings()
    for split in sorted(splits, key=lambda name: name in LEARNT):
        dataset, is_learnt = splits[split], split in LEARNT
        scored.sort()
        sounds = found.sounds[split] = SplitSounds.of(len(dataset))
        drawn = _choose(split, dataset, found, listen_up_to if is_learnt else None)
        for index, row, heard in hear(dataset, ~sounds.usable, scored if is_learnt else None):
            sounds.note(index, heard)
            if heard.fault:
                found.findings.add(ALWAYS, split, row, heard.fault)
                found.findings.set_aside[split, row["id"], row["place"]] = heard.fault
                continue
            judge_sound(split, row, heard, found.findings)
            if heard.fingerprints:
                scored.add(split, row, heard.fingerprints)
        _check_drawn(split, drawn, sounds, max_rejected)
        _set_aside(split, dataset, sounds, found, max_rejected)
    found.not_compared = scored.left_out
    found.splits = {split: found.splits[split] for split in splits}
    order = list(splits)
    found.rejections.sort(key=lambda rejection: order.index(rejection.split))


def _choose(split: str, dataset: Dataset, found: Audit, limit: int | None) -> Bool[np.ndarray, "row"]:
    """Which rows are drawn to be heard; of the others is noted what they say of themselves, if they say it well."""
    scored = [texts for name, texts in found.texts.items() if name not in LEARNT]
    is_large = limit is not None and len(dataset) > limit and split in found.texts
    drawn = choose_heard(len(dataset), limit, find_suspects(found.texts[split], scored) if is_large else None)
    if not drawn.all():
        durations_s = expect_durations(dataset, ~drawn)
        found.sounds[split].expect(np.flatnonzero(durations_s), durations_s[durations_s > 0])
    return drawn


def _check_drawn(split: str, drawn: Bool[np.ndarray, "row"], sounds: SplitSounds, max_rejected: float | None) -> None:
    """Refuse a corpus of which a part was heard, where too much of the part is bad: the rest will be like it."""
    bad, count = int((drawn & ~sounds.usable).sum()), int(drawn.sum())
    if max_rejected is not None and count < len(drawn) and bad > max_rejected * count:
        raise InputError(
            f"{bad} of {count} utterances of {split} that were listened to, of {len(drawn)}, cannot be used, more than "
            f"data.max_rejected={max_rejected:g} allows. `attune audit` lists them all. Mend or remove them, raise "
            "data.max_rejected, or have a run listen to all: data.listen_up_to=null."
        )


def _set_aside(split: str, dataset: Dataset, sounds: SplitSounds, found: Audit, max_rejected: float | None) -> None:
    aside = {(id, place): reason for (where, id, place), reason in found.findings.set_aside.items() if where == split}
    bad: list[Rejection] = []
    if aside:
        for index, row in enumerate(iterate(dataset, ["id", "place"])):
            if reason := aside.get((row["id"], row["place"])):
                sounds.usable[index] = False
                bad.append(Rejection(split, row["id"], row["place"], reason))
    if max_rejected is not None:
        _check_share(split, len(bad), len(dataset), max_rejected, bad)
    found.splits[split] = keep_usable(dataset, sounds)
    found.rejections += bad


def keep_usable(dataset: Dataset, sounds: SplitSounds) -> Dataset:
    """What can be used of a split, with `duration_s` filled in."""
    # The column first: added to a selection, it would have the recordings copied.
    feature = dataset.features["duration_s"]
    timed = dataset.remove_columns("duration_s").add_column("duration_s", sounds.duration_s, feature=feature)
    return timed if sounds.usable.all() else timed.select(np.flatnonzero(sounds.usable))


def load_row(row: Mapping[str, Any]) -> Float[Tensor, "sample"]:
    """The waveform of one row of the schema: mono, 16 kHz, shape (sample,).

    Raises:
        AudioError: it cannot be decoded, or no model could hear anything in it: the start of a run may not have
            listened to it.
    """
    waveform, _ = load_recorded_row(row)
    if fault := compute_fault(waveform):
        raise AudioError(fault)
    return waveform


def _compare_within(split: str, dataset: Dataset, sounds: SplitSounds, findings: Findings) -> None:
    """Name what has the same samples as an earlier row of its split."""
    usable = np.flatnonzero(sounds.usable & sounds.heard)
    _, first, which = np.unique(sounds.digest[usable], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(usable)))
    if len(again) == 0:
        return
    rows = read_names(dataset, usable[again])
    others = read_names(dataset, usable[first[which[again]]])
    for row, other in zip(rows, others, strict=True):
        findings.add("duplicate_audio", split, row, f"the same samples as {other['place']}")


def _compare_validation(splits: Mapping[str, Dataset], found: Audit) -> None:
    """Name what is chosen on and also reported."""
    if "validation" not in splits or "test" not in splits:
        return
    reported = {*found.sounds["test"].digest[found.sounds["test"].usable].tolist()}
    chosen = found.sounds["validation"]
    rows = [index for index in np.flatnonzero(chosen.usable) if int(chosen.digest[index]) in reported]
    for row in read_names(splits["validation"], np.array(rows, int)):
        found.findings.add("validation_is_test", "validation", row, "its recording stands in test")


def _check_share(split: str, bad: int, rows: int, max_rejected: float, examples: Sequence[Rejection]) -> None:
    if bad > max_rejected * rows or (rows and bad == rows):
        shown = "\n".join(f"  {rejection.place}: {rejection.reason}" for rejection in examples[:SHOWN])
        raise InputError(
            f"{bad} of {rows} utterances of {split} cannot be used, more than data.max_rejected={max_rejected:g} "
            f"allows:\n{shown}\nMend or remove them, or raise data.max_rejected."
        )
