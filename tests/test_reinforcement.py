"""Reinforcement learning and preferences as a user meets them: whole small runs of train.py, one after the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import SMALL, make_config, write_rows

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.model.whisper import load_tokens, load_whisper
from attune.train.loggers import MetricsFile
from attune.train.objective.grpo import Grpo
from attune.use.export import export
from train import train

TEXTS = ["One two.", "Three four.", "Five six.", "Seven eight.", "Nine ten."]
LOADED = [word for word in SMALL if not word.startswith("model")]


CACHED = ["cache=encoder", "finetune=decoder"]
REWARDED = ["objective=grpo", "objective.rewards.model=1"]


def length(candidate: Any) -> float:
    return -abs(len(candidate.hypothesis) - len(candidate.reference))


def broken(candidate: Any) -> float:
    return float("inf")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """texts.jsonl and pairs.jsonl of five utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    rows, pairs = [], []
    for index, text in enumerate(TEXTS):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        about = {"audio": f"{index}.wav", "language": "en"}
        rows.append({**about, "text": text})
        pairs.append({**about, "chosen": text, "rejected": TEXTS[index - 1]})
    write_rows(folder / "texts.jsonl", rows)
    write_rows(folder / "pairs.jsonl", pairs)
    return folder


def words_for(spoken: Path, option: str) -> list[str]:
    file = spoken / ("pairs.jsonl" if option == "pairs" else "texts.jsonl")
    return [f"data={option}", *(f"data.{split}={file}" for split in ("train", "validation", "test"))]


def run(folder: Path, *words: str) -> dict[str, Any]:
    train(make_config(*LOADED, f"folder={folder}", "name=test", "trainer.log_every=1", *words))
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    return record


@pytest.fixture(scope="module")
def start(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supervised run, from which all others start."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    train(make_config(*SMALL, f"folder={folder}", "name=test", *words_for(spoken, "manifest")))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["objective=mwer", "trainer.accumulate_grad_batches=2"],
        ["objective=mwer", "objective.search=beam", "finetune=decoder"],
        ["objective=grpo", "finetune=lora", "finetune.rank=2", "objective.samples=3", "augment=standard"],
        ["objective=grpo", "objective.samples=2", "objective.refresh_every=2", "penalty=distill", "ema=0.9"],
        ["objective=grpo", "objective.rewards.term_recall=1", "objective.terms=[four, six]", "objective.samples=2"],
        ["objective=self_critical", "objective.samples=2", "finetune=adapter", "trainer.precision=bf16-mixed"],
    ],
)
def test_a_supervised_run_goes_on_from_rewards(words: list[str], start: Path, spoken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    record = run(folder, f"model.name_or_path={start}", *words_for(spoken, "manifest"), *words)
    assert record["train"]["steps"] == 4 and set(record["result"]) == set(record["baseline"])
    rows = MetricsFile(folder).rows
    logged = {key for row in rows for key, value in row.items() if value}
    assert {"train/distinct_samples", "train/truncated_samples", "train/entropy", "val/wer"} <= logged
    rewarded = {"train/reward", "train/reward_spread", "train/kl", "train/clip_share"}
    assert (rewarded <= logged) == ("mwer" not in words[0])


def test_dpo_and_a_reward_model_and_its_reward(start: Path, spoken: Path, tmp_path: Path) -> None:
    """RLHF whole: pairs -> scorer -> GRPO; and pairs -> DPO."""
    model = f"model.name_or_path={start / 'model'}"
    replay = ["data.replay=0.3", f"data.replay_from={spoken / 'texts.jsonl'}"]
    run(tmp_path / "dpo", model, *words_for(spoken, "pairs"), "objective=dpo", "objective.anchor=0", *replay)
    rows = MetricsFile(tmp_path / "dpo").rows
    assert 0 <= float(rows[0]["train/loss"]) < 0.694  # log 2 for each pair, nothing for what is replayed
    assert any(row.get("train/accuracy") for row in rows) and any(row.get("val/margin") for row in rows)

    scorer = tmp_path / "scorer"
    record = run(scorer, model, *words_for(spoken, "pairs"), "objective=reward_model", "penalty=l2sp")
    assert record["parameters"]["added"] == 33
    before, judged = (record[key]["test"]["pairs"] for key in ("baseline", "result"))
    assert before["ordered"] == 0.5 and judged["pairs"] == len(TEXTS)  # a head that has learnt nothing
    low, high = judged["ordered_ci95"]
    assert 0 <= low <= judged["ordered"] <= high <= 1
    page = (scorer / "report.html").read_text()
    assert f"of {len(TEXTS)} pairs of the test set" in page and "word error rate on the target" not in page
    loaded = load_whisper(str(scorer / "model"), load_tokens(str(scorer / "model")))
    assert hasattr(loaded.network, "reward_head")
    export(scorer, tmp_path / "exported", checkpoint="last")
    assert hasattr(load_whisper(str(tmp_path / "exported"), loaded.tokens).network, "reward_head")

    folder = tmp_path / "grpo"
    words = ["objective=grpo", "objective.samples=2", "objective.rewards.wer=0", "objective.rewards.model=1"]
    run(folder, model, *words_for(spoken, "manifest"), *words, f"objective.reward_model={scorer}")
    assert any(row.get("train/reward") for row in MetricsFile(folder).rows)


class Mortal(Grpo):
    """Dies at its `death`-th batch."""

    death: int | None = None
    seen = 0

    def loss(self, whisper: Any, batch: Any) -> Any:
        self.seen += 1
        if self.seen == self.death:
            raise MemoryError("the lights went out")
        return super().loss(whisper, batch)


def test_a_run_that_died_draws_what_it_would_have_drawn(
    start: Path, spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.train.objective.grpo.Grpo", Mortal)
    words = [f"model.name_or_path={start}", *words_for(spoken, "manifest"), "objective=grpo", "objective.samples=2"]
    words += ["objective.refresh_every=3", "objective.kl=0.5", "keep=last", "trainer.max_steps=6"]
    run(tmp_path / "whole", *words)
    monkeypatch.setattr(Mortal, "death", 6)
    with pytest.raises(MemoryError):
        run(tmp_path / "cut", *words)
    monkeypatch.setattr(Mortal, "death", None)
    train(make_config(f"resume={tmp_path / 'cut'}"))
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "cut")
    ]
    assert any(name.startswith("objective.drawer.start.") for name in states[0])
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name


@pytest.mark.parametrize(
    ("option", "words", "message"),
    [
        ("manifest", ["objective=grpo", "objective.samples=1"], r"objective.samples=1: a group of one"),
        ("manifest", ["objective=dpo"], r"objective=dpo learns from pairs"),
        ("manifest", ["objective=grpo", "objective.rewards.own=1"], r"objective.own=None"),
        ("manifest", ["objective=grpo", "objective.reference=OTHER"], r"objective.reference=.* has another vocabulary"),
        ("pairs", ["objective=dpo", "objective.reference=OTHER"], r"objective.reference=.* has another vocabulary"),
        ("pairs", ["objective=reward_model", "interpolate=[0.5]", "+data.retention.us=PAIRS"], r"interpolate=null"),
        ("manifest", ["objective=mwer", "model.name_or_path=RUN"], r"has not finished"),
        ("pairs", ["objective=reward_model", "data.validation=TEXTS"], r"judged by pairs .* validation of this corpus"),
        ("pairs", ["objective=dpo", "objective.reference=START", *CACHED], r"objective.reference has another model"),
        ("manifest", ["objective=grpo", "objective.reference=START", *CACHED], r"cache=none"),
        ("manifest", [*REWARDED, "objective.reward_model=START", *CACHED], r"objective.reward_model has another model"),
    ],
)
def test_bad_input_ends_the_run_before_weights_load(
    option: str, words: list[str], message: str, start: Path, spoken: Path, nano_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.json").write_text("{}")
    places = {"RUN": str(unfinished), "PAIRS": str(spoken / "pairs.jsonl"), "OTHER": str(nano_folder)}
    places |= {"START": str(start), "TEXTS": str(spoken / "texts.jsonl")}
    for name, place in places.items():
        words = [word.replace(f"={name}", f"={place}") for word in words]
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", f"model.name_or_path={start}", *words_for(spoken, option), *words)
    assert not (tmp_path / "run").exists()


def test_a_reward_that_is_no_number_ends_the_run_and_loses_nothing(
    start: Path, spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    words = ["objective=grpo", "objective.samples=2", "objective.rewards.own=1", f"objective.own={__name__}.broken"]
    with pytest.raises(InputError, match=r"objective.rewards.own gave inf for utterance"):
        run(folder, f"model.name_or_path={start}", *words_for(spoken, "manifest"), *words)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed" and "objective.rewards.own" in record["error"]


def test_a_reward_of_ones_own_is_found_by_its_path(start: Path, spoken: Path, tmp_path: Path) -> None:
    words = ["objective=grpo", "objective.samples=2", "objective.rewards.own=1", f"objective.own={__name__}.length"]
    run(tmp_path / "run", f"model.name_or_path={start}", *words_for(spoken, "manifest"), *words)


def test_a_reward_head_that_nothing_teaches_is_refused(start: Path, spoken: Path, tmp_path: Path) -> None:
    """It was saved, all zeros, and then ordered pairs for objective=grpo."""
    words = [f"model.name_or_path={start}", *words_for(spoken, "pairs"), "objective=reward_model", "finetune=none"]
    with pytest.raises(InputError, match=r"adds 33 parameters .* finetune=none would leave untrained"):
        run(tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()
