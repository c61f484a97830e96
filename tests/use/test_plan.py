"""attune plan: the run's own corpus, model and type, and no weight loaded."""

import io
import json

import pytest
from rich.console import Console

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.use.cli import make_parser
from attune.use.config import compose_run
from attune.use.plan import make_jobs, plan_run


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index, text in enumerate(["One two.", "Three four.", "Five six seven eight."]):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        rows.append({"audio": f"{index}.wav", "text": text, "language": "en"})
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    splits = [f"data.{split}={path}" for split in ("train", "validation", "test")]
    return ["data=manifest", "data.allow_leakage=true", *splits]


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attune.model.scratch.load_whisper", lambda *_: pytest.fail("weights were loaded"))


def tell(*words: str) -> str:
    console = Console(file=io.StringIO(), width=160)
    plan_run(console, compose_run(words))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_plan_says_what_fits(words: list[str]) -> None:
    told = tell(*words, "finetune=lora", "context=full")
    assert "windows of 30 s" in told and "fp32" in told
    for name in ("parameters", "gradients", "optimiser", "activations", "logits", "process", "8 GB", "80 GB"):
        assert name in told
    assert "fits, up to data.batch_window_s=" in told


def test_a_plan_follows_the_words(words: list[str]) -> None:
    def need(*more: str) -> int:
        return make_jobs(compose_run([*words, *more]))[0].need().total

    plain = need()
    assert need("finetune=decoder") < plain
    assert need("data.batch_window_s=1200", "context=full") > plain
    assert need("ema=0.9") > plain
    job, others = make_jobs(compose_run([*words, "finetune=decoder", "cache=encoder", "trainer.precision=bf16-mixed"]))
    assert job.cached and job.half and "trainer.precision=bf16-mixed" not in [each for each, _ in others]


@pytest.mark.parametrize("more", [["cache=encoder"], ["cache=encoder", "finetune=decoder", "context=packed"]])
def test_what_a_run_would_refuse_a_plan_refuses(more: list[str], words: list[str]) -> None:
    with pytest.raises(InputError, match="cache=encoder"):
        tell(*words, *more)


def test_the_command_takes_words() -> None:
    arguments = make_parser().parse_args(["plan", "model=small", "finetune=lora"])
    assert arguments.words == ["model=small", "finetune=lora"]


def test_a_plan_refuses_a_list_of_terms_that_is_not_there(words: list[str]) -> None:
    with pytest.raises(InputError, match=r"nope.csv"):
        tell(*words, "vocabulary=file", "vocabulary.file=nope.csv")
