"""attune pairs: what a model writes -> a folder that data=pairs reads."""

import json
import sys
from pathlib import Path

import pytest
import torch
from whispers import awaken, make_batch

from attune.data.corpora.pairs import PairsCorpus
from attune.data.corpora.schema import REJECTED
from attune.errors import InputError
from attune.model.sample import Hypothesis
from attune.model.save import save_whisper
from attune.model.whisper import Whisper, complete_generation_config, load_tokens, load_whisper
from attune.train.objective.hypotheses import Hypotheses
from attune.use.cli import main
from attune.use.config import compose_run
from attune.use.pairs import Wanted, choose_sides, count_errors, make_pairs

WORDS = ["data=accent", "data.corpus.panels.train.utterances=6", "data.corpus.panels.validation.utterances=3"]
WORDS += ["data.corpus.panels.test.utterances=3", "data.corpus.retention=null", "data.batch_window_s=30"]


@pytest.fixture(autouse=True)
def _cache(speech_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_CACHE", speech_cache)


@pytest.fixture(scope="module")
def model(nano_like: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_whisper(awaken(nano_like, seed=3), folder)
    return folder


@pytest.fixture
def whisper(model: Path) -> Whisper:
    loaded = load_whisper(str(model), load_tokens(str(model))).eval()
    loaded.network.generation_config = complete_generation_config(loaded.network.generation_config, loaded.tokens)
    return loaded


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("wanted", [Wanted(samples=2), Wanted(samples=3, beam=True, limit=4)])
def test_a_folder_of_pairs(wanted: Wanted, whisper: Whisper, tmp_path: Path) -> None:
    counts = make_pairs(whisper, compose_run(WORDS), tmp_path / "out", wanted)
    assert counts == {"train": wanted.limit or 6, "validation": 3, "test": 3}  # random weights are never right
    rows = read(tmp_path / "out" / "train.jsonl")
    assert all(row["chosen"] and row["rejected"] != row["chosen"] and row["language"] == "en" for row in rows)
    assert all((tmp_path / "out" / row["audio"]).is_file() for row in rows)
    splits = PairsCorpus(
        *(str(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "validation", "test"))
    ).splits()
    assert list(splits["train"][REJECTED]) == [row["rejected"] for row in rows]
    assert list(splits["test"][REJECTED]) == [row["rejected"] for row in read(tmp_path / "out" / "test.jsonl")]


def test_what_is_scored_are_the_words_that_were_said(whisper: Whisper, tmp_path: Path) -> None:
    """Not the best of some attempts."""
    make_pairs(whisper, compose_run(WORDS), tmp_path / "out", Wanted(samples=3, chosen="best"))
    rows = read(tmp_path / "out" / "test.jsonl")
    assert len(rows) == 3 and all(row["text"] and "chosen" not in row for row in rows)


def test_the_seed_repeats_them(whisper: Whisper, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        make_pairs(whisper, compose_run(WORDS), tmp_path / name, Wanted(samples=1, seed=seed))
    one, same, other = (read(tmp_path / name / "train.jsonl") for name in ("one", "same", "other"))
    rejected = [sorted((row["id"], row["rejected"]) for row in rows) for rows in (one, same, other)]
    assert rejected[0] == rejected[1] != rejected[2]


def test_the_worst_attempt_is_rejected(nano_like: Whisper) -> None:
    batch = make_batch(nano_like.tokens, 150, ("seven blue boats", "no", "three"), (0.5, 0.3, 0.4))
    texts = ["seven blue boat", "seven", "No!", "no", "tree", "free"]
    drawn = Hypotheses(2, [Hypothesis((), True)] * 6, texts, [True] * 6)
    with torch.no_grad():
        against = dict(choose_sides(batch, drawn, "reference"))
        among = dict(choose_sides(batch, drawn, "best"))
    assert against == {
        "utterance 0": {"chosen": "seven blue boats", "rejected": "seven"},
        "utterance 2": {"chosen": "three", "rejected": "free"},
    }
    assert among == {
        "utterance 0": {"chosen": "seven blue boat", "rejected": "seven"},
        "utterance 2": {"chosen": "tree", "rejected": "free"},
    }
    assert (count_errors("", "you", None), count_errors("No.", "no", None)) == (3, 0)


def test_the_command_says_what_it_wrote(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["attune", "pairs", str(model), str(out), "--samples=1", "--data", *WORDS])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert f"6 pairs to learn from, 3 to validate on -> {out}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["attune", "pairs", str(model), str(out), "--data", *WORDS])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "is not empty" in capsys.readouterr().err


def test_what_cannot_be_made(whisper: Whisper, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_run(WORDS)
    with pytest.raises(InputError, match="with best at least 2 attempts"):
        make_pairs(whisper, config, tmp_path / "a", Wanted(samples=1, chosen="best"))
    with pytest.raises(InputError, match="--temperature=0 must be above 0"):
        make_pairs(whisper, config, tmp_path / "b", Wanted(temperature=0.0))
    assert not (tmp_path / "b").exists()
    monkeypatch.setattr("attune.use.pairs.choose_sides", lambda *_: iter(()))
    with pytest.raises(InputError, match="there is no pair. Draw more of them"):
        make_pairs(whisper, config, tmp_path / "b", Wanted(samples=1))
    monkeypatch.setattr(sys, "argv", ["attune", "pairs", str(model), str(tmp_path / "c")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2  # a model folder tells of no corpus
