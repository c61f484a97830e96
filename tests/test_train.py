"""train.py as a user meets it: a whole small run, and what it says to bad input."""

import csv
import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.model.whisper import load_tokens, load_whisper
from attune.report.predictions import read_predictions
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.scoring import score_other
from attune.use.config import Run, build_corpus, open_run
from attune.use.export import export
from attune.use.faults import explain
from attune.use.transcribe import load_listening
from train import train

ROOT = Path(__file__).parents[1]
SMALL = [
    "model=scratch",
    "model.scratch.width=32",
    "model.scratch.layers=1",
    "model.scratch.heads=2",
    "logger=csv",
    "data.allow_leakage=true",  # six utterances are all there are, to learn from and to score
    "trainer.max_steps=4",
    "trainer.validate_every=2",
    "trainer.accelerator=cpu",
]


def make_config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def run_small(folder: Path, *overrides: str) -> None:
    config = make_config(*SMALL, f"folder={folder}", "name=test", *overrides)
    train(config)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six utterances, one of them broken, and a manifest beside them."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index, text in enumerate(["One two.", "Three four.", "Five six.", "Seven eight.", "Nine ten.", "Broken."]):
        (folder / f"{index}.wav").write_bytes(
            encode_wav(speak(text, Voice())) if text != "Broken." else b"RIFFnonsense"
        )
        rows.append(
            {"audio": f"{index}.wav", "text": text, "speaker": f"s{index % 2}", "accent": "us", "language": "en"}
        )
    write_rows(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def manifest_words(path: Path, **changed: Path) -> list[str]:
    return ["data=manifest", *(f"data.{name}={changed.get(name, path)}" for name in ("train", "validation", "test"))]


@pytest.fixture(scope="module")
def finished(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_small(folder, *manifest_words(manifest), "data.max_rejected=0.2")
    return folder


def test_a_run_leaves_everything_the_design_promises(finished: Path, tmp_path: Path) -> None:
    folder, record = finished, json.loads((finished / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["train"]["steps"] == 4
    assert set(record["result"]) == set(record["baseline"]) == {"test", "test@full"}
    assert record["result"]["test"]["utterances"] == 5
    assert "is not finished" not in (folder / "report.html").read_text()
    assert all(row.accent == "us" for row in read_predictions(folder / "predictions" / "test.csv"))
    rejected = (folder / "rejected.csv").read_text()
    assert record["audit"]["shared"]["test"] == {"sentences": 5, "speakers": 2}
    assert record["result"]["test"]["remainder"] == {"utterances": 0, "words": 0, "wer": None, "cer": None}
    assert "no other is left to be scored by itself" in (folder / "report.html").read_text()
    assert rejected.count("cannot be decoded") == 3 and "train.jsonl, line 6" in rejected
    for name in (
        "audit.html",
        "audit.csv",
        "config.yaml",
        "metrics.csv",
        "report.html",
        "predictions/test@full.csv",
        "figures/log_mel.png",
    ):
        assert (folder / name).stat().st_size > 0
    export(folder, tmp_path / "exported", checkpoint="best")
    kept, exported = (load_file(path / "model.safetensors") for path in (folder / "model", tmp_path / "exported"))
    assert kept.keys() == exported.keys() and all(torch.equal(kept[name], exported[name]) for name in kept)
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder / "model")
    assert model.generate(torch.zeros(1, 80, 3000), language="en", max_new_tokens=4).shape[0] == 1


def test_a_run_says_what_plain_transformers_cannot_hold(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_small(tmp_path / "run", *manifest_words(manifest), "data.max_rejected=0.2", "finetune=adapter")
    assert "cannot hold this model's 5 adapters" in capsys.readouterr().out
    listening = load_listening(str(tmp_path / "run"), "cpu")
    learnt = dict(listening.network.named_parameters())["model.decoder.layers.0.fc2.adapter.up.weight"]
    assert learnt.abs().max() > 0  # it was zero at the start


SCRATCH = "model=scratch"  # what SMALL says


def forgetting_words(path: Path, nano: Path) -> list[str]:
    """The manifest as everything, and a model that can be gone back to."""
    panels = [f"data.replay_from={path}", f"+data.retention.us={path}", f"+data.retention_validation.us={path}"]
    model = ["model.scratch=null", f"model.name_or_path={nano}"]
    return [*manifest_words(path), *panels, *model, "data.max_rejected=0.2", "trainer.log_every=1"]


@pytest.mark.parametrize(
    "words",
    [
        ["interpolate=[0,.5,1]", "retention_limit=5", "data.replay=0.3", "penalty=distill", "ema=0.9", "keep=top2"],
        ["interpolate=[1]", "penalty=ewc", "penalty.utterances=2", "finetune=lora", "keep=last"],
        ["penalty=l2sp", "trainer.accumulate_grad_batches=2", "data.replay=0.5"],
    ],
)
def test_every_weapon_against_forgetting(words: list[str], manifest: Path, nano_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_small(folder, *forgetting_words(manifest, nano_folder), *words)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert set(record["result"]) == set(record["baseline"]) == {"test", "retention/us", "test@full"}
    assert "train/penalty" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert "replay" in record["splits"]
    page, way = (folder / "report.html").read_text(), record["interpolation"]
    if not words[0].startswith("interpolate"):
        assert way is None and "Interpolation" not in page
        return
    assert [point["alpha"] for point in way["points"]] == ([0, 0.5, 1] if "[0,.5,1]" in words[0] else [0, 1])
    assert way["judged"] == ["retention_validation/us"] and "Interpolation" in page
    assert (folder / "figures/interpolation.png").stat().st_size > 0
    chosen = next(point for point in way["points"] if point["alpha"] == way["chosen"])
    assert record["result"]["test"]["wer"] == chosen["wer"]["test"]
    assert record["baseline"]["test"]["wer"] == way["points"][0]["wer"]["test"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.replay=0.2", "data.replay_from=null"], r"no split 'replay'.*data.replay above 0 \(it is 0.2\)"),
        (["penalty=ewc", "data.replay_from=null"], r"no split 'replay'.*penalty=ewc draw"),
        (["data.replay=1"], r"data.replay=1 .* in \[0, 1\)"),
        (["interpolate=[2]"], r"interpolate=\[2\] must be a list of shares"),
        (["interpolate=[0.5]", "data.retention=null", "data.retention_validation=null"], r"no retention panel"),
        (["interpolate=[0.5]", "finetune=adapter"], r"finetune Adapter adds adapters"),
        (["interpolate=[0.5]", SCRATCH], r"model=scratch has none"),
        (["penalty=distill", SCRATCH], r"penalty=distill .* model=scratch has none"),
        (["penalty=l2sp", "finetune=none"], r"penalty=l2sp .* nothing does"),
        (["keep=all"], r"keep=all is not known"),
        (["ema=2"], r"ema=2 is no decay"),
        (["penalty=l2sp", "penalty.alpha=-1"], r"penalty.alpha=-1"),
    ],
)
def test_a_weapon_that_does_not_fit_ends_the_run_before_weights_load(
    words: list[str], message: str, manifest: Path, nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    given = [word for word in forgetting_words(manifest, nano_folder) if not (SCRATCH in words and "model." in word)]
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", *given, *(word for word in words if word != SCRATCH))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["finetune=new_tokens", "finetune.count=3", "finetune.languages={gsw: de}"],
        ["finetune=prompt", "finetune.tokens=3"],
        ["finetune=new_head", "finetune.merges=9"],
        ["finetune=ctc", "finetune.train=[]", "objective=ctc"],
    ],
)
def test_types_that_write_otherwise_are_held_against_the_untouched_model(
    words: list[str], manifest: Path, nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own tokens: what is scored first is the model of model.name_or_path, and not a changed one."""
    scored = []
    monkeypatch.setattr(
        "train.score_other", lambda *args: scored.append(args[2].network.config.vocab_size) or score_other(*args)
    )
    rows = manifest.read_text()
    if "languages" in words[-1]:
        rows = rows.replace('"language": "en"', '"language": "gsw"')
    spoken = manifest.parent / f"{words[0].split('=')[1]}.jsonl"
    spoken.write_text(rows)
    folder = tmp_path / "run"
    loaded = ["model.scratch=null", f"model.name_or_path={nano_folder}"]
    run_small(folder, *loaded, *manifest_words(spoken), "data.max_rejected=0.2", *words)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert set(record["baseline"]) == set(record["result"]) == {"test", "test@full"}
    untouched = load_whisper(str(nano_folder), load_tokens(str(nano_folder)))
    assert scored == [untouched.network.config.vocab_size] * 2
    model = load_whisper(str(folder / "model"), load_tokens(str(folder / "model")))
    assert model.network.config.vocab_size == len(model.tokens.tokenizer)


def test_an_augmented_run_shows_what_it_heard(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_small(folder, *manifest_words(manifest), "data.max_rejected=0.2", "augment=standard", "augment.telephone=null")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["config"]["augment"]["telephone"] is None
    assert (folder / "figures" / "augmentation.png").stat().st_size > 0
    assert "after each augmentation by itself" in (folder / "report.html").read_text()


def test_a_run_is_never_written_over(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder=.* exists.*resume="):
        run_small(tmp_path, *manifest_words(manifest))


def test_too_many_broken_utterances_stop_the_run(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 6 utterances of validation .* data.max_rejected=0.05(.|\n)*line 6"):
        run_small(tmp_path / "run", *manifest_words(manifest))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "gone.wav", "text": "x", "language": "en"}, r"bad.jsonl, line 1: there is no audio file .*gone.wav"),
        ({"audio": "0.wav", "sentence": "x", "language": "en"}, r"no column 'text'.*sentence"),
        ({"audio": "0.wav", "text": "x", "language": "englsh"}, r"line 1: Whisper knows no language 'englsh'.*english"),
        ({"audio": "0.wav", "text": "x"}, r"line 1 has no language.*data.language"),
        ({"audio": "0.wav", "text": "xyz " * 448, "language": "en"}, r"line 1: The text has \d+ tokens.*448"),
    ],
)
def test_a_bad_row_ends_the_run_before_weights_load(
    row: dict, message: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    bad = write_rows(manifest.parent / "bad.jsonl", [row])
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", *manifest_words(manifest, train=bad))


def test_quantisation_without_a_gpu_ends_the_run_before_weights_load(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"finetune.quantize=4bit needs a CUDA GPU"):
        run_small(tmp_path / "run", *manifest_words(manifest), "finetune=lora", "finetune.quantize=4bit")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.train=nowhere.jsonl"], r"data.train: there is no manifest nowhere.jsonl"),
        (["model.scratch=null", "model.name_or_path=./nowhere"], r"model.name_or_path: there is no folder ./nowhere"),
        (
            ["model.scratch=null", f"model.name_or_path={ROOT / 'configs'}"],
            r"is no model folder: it has no config.json",
        ),
    ],
)
def test_a_path_that_leads_nowhere(words: list[str], message: str, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", *manifest_words(manifest), *words)


def test_an_empty_split(manifest: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match=r"data.test: .*empty.jsonl holds no utterance"):
        run_small(tmp_path / "run", *manifest_words(manifest, test=empty))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.max_step=3", r"no config key 'trainer.max_step'. Nearest: max_steps"),
        ("finetune=lorra", r"no finetune=lorra. Nearest: lora"),
        ("dat=accent", r"dat"),
    ],
)
def test_a_mistyped_word_names_the_nearest(word: str, message: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Hydra's own classes; the words are what matters
        make_config(word)
    assert re.search(message, explain(caught.value))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.train=/a/é.jsonl"], "data.train=/a/é.jsonl cannot be read: .* Write \"data.train='/a/é.jsonl'\""),
        (["data.train=/a (1)/b=c"], r"Write \"data.train='/a \(1\)/b=c'\""),
        (["data.train=/a/it's"], r"Write \"data.train='/a/it\\'s'\""),
        (["data.train=/a,b"], r"data.train=/a,b: a comma separates .* data.train=\[/a,b\].*: \"data.train='/a,b'\""),
        (["data.train=~/a.jsonl"], rf"~ is no folder here.* Write \"data.train='{Path.home()}/a.jsonl'\""),
        (["data.train"], "'data.train' is no word of a run: it needs a value"),
        (["data.retention.us=a.jsonl"], r"'data.retention.us': .* Write \+data.retention.us=a.jsonl"),
        (["finetune=new_tokens", "finetune.languages.gsw=de"], r"Write \+finetune.languages.gsw=de"),
        ([], "data.train is missing. Give data.train=FILE"),
        (["data.train=a"], "data.validation is missing. Give data.validation=FILE"),
        (["data=folder"], "data.root is missing. Give data.root=FOLDER"),
    ],
)
def test_what_is_said_of_words(words: list[str], message: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        build_corpus(make_config("data=manifest", "name=test", *words).data)
    assert re.search(message, explain(caught.value))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.max_rejected=5%", r"data.max_rejected=5%: accepted is a share from 0 to 1, as 0.05 for 5 %"),
        ("data.batch_window_s=0", r"data.batch_window_s=0: accepted are seconds above 0"),
        ("data.replay=x", r"data.replay=x is no share of the training utterances"),
        ("data.workers=two", r"data.workers=two: accepted are whole numbers, or null"),
        ("seed=abc", r"seed=abc: accepted are whole numbers from 0 to"),
        ("trainer.max_steps=abc", r"trainer.max_steps=abc: accepted are whole numbers\."),
        ("data.validation=null", r"data.validation is null: .* Give it a FILE"),
        ("data.merge_s=abc", r"data.merge_s=abc: accepted are numbers\."),
    ],
)
def test_a_value_of_the_wrong_kind_ends_the_run_before_weights_load(
    word: str, message: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    folder = ["data=folder", f"data.root={manifest.parent}"]
    corpus = folder if "merge_s" in word else manifest_words(manifest)
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", *corpus, word)


def test_a_new_language_that_no_utterance_is_in(manifest: Path, nano_folder: Path, tmp_path: Path) -> None:
    words = ["model.scratch=null", f"model.name_or_path={nano_folder}", "data.max_rejected=0.2"]
    new = ["finetune=new_tokens", "finetune.terms=[]", "+finetune.languages.gsw=en"]
    with pytest.raises(InputError, match=r"no training utterance is in 'gsw'.* They are in en. .* data.language=gsw"):
        run_small(tmp_path / "run", *manifest_words(manifest), *words, *new)


class Halved(CrossEntropy):
    loss_from_states = None  # type: ignore[assignment]


def test_an_objective_of_ones_own_that_lacks_a_method(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match=r"objective Halved has no loss_from_states\(\). An objective has two methods"):
        own = ["data.max_rejected=0.2", f"objective._target_={__name__}.Halved"]
        run_small(tmp_path / "run", *manifest_words(manifest), *own)


def open_small(folder: Path | None) -> Run:
    return open_run(make_config(*SMALL, "name=test", *([f"folder={folder}"] if folder else [])))


def test_two_runs_of_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attune.use.config.datetime", Mock(now=lambda: datetime(2026, 1, 1, 12)))
    runs = [open_small(None) for _ in range(3)]
    names = [run.start().folder.name for run in runs]
    assert names == ["2026-01-01_12-00-00_test", *(f"2026-01-01_12-00-00_test_{number}" for number in (2, 3))]
    assert all((tmp_path / "runs" / name / "config.yaml").is_file() for name in names)


def test_two_runs_of_one_folder(tmp_path: Path) -> None:
    runs = [open_small(tmp_path / "run") for _ in range(2)]
    assert runs[0].start().folder == tmp_path / "run"
    with pytest.raises(InputError, match=r"folder=.*/run exists, and a run is never written over another. .* resume="):
        runs[1].start()


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("a file")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"runs/.* cannot be written \(runs is a file\). Name another place: folder="):
        open_small(None)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # for root everything may be written
    with pytest.raises(InputError, match=r"cannot be written \(.*: Permission denied\). Name another place: folder="):
        open_small(tmp_path / "run")


def test_one_message_and_no_traceback() -> None:
    words = ["data=manifest", "data.train=a.jsonl", "data.validation=b.jsonl"]
    result = subprocess.run(
        [sys.executable, "train.py", "model=scratch", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"attune: data.train: there is no manifest a.jsonl (looked for in {ROOT}). Give a .jsonl, .csv, .tsv file."
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Nothing was trained: the model has a word error rate of"),
        (["data.in_context=2"], "Without training, 2 examples in context"),
    ],
)
def test_nothing_trained_is_a_run_like_any_other(
    words: list[str], said: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    run_small(folder, *manifest_words(manifest), "data.max_rejected=0.2", "finetune=none", *words)
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["train"]["steps"], record["parameters"]["trainable"]) == ("finished", 0, 0)
    assert record["train"]["utterances_per_second"] is None
    assert set(record["result"]) == set(record["baseline"]) == {"test", "test@full"}
    if not words:
        assert record["in_context"] == {}
        scores = [{panel: score["wer"] for panel, score in record[part].items()} for part in ("baseline", "result")]
        assert scores[0] == scores[1]
    else:
        assert record["in_context"] == {"examples": 2, "utterances": 5, "given": 10, "left_out": 0}
    assert not (folder / "figures/learning_curves.png").exists()
    assert said in (folder / "report.html").read_text()
    assert "no step is taken" in capsys.readouterr().out
    assert (folder / "model/model.safetensors").stat().st_size > 0


def test_few_shots_are_recorded(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    whole = write_rows(
        manifest.parent / "whole.jsonl", [json.loads(line) for line in manifest.read_text().splitlines()[:5]]
    )
    run_small(folder, *manifest_words(whole), "data.shots=2", "seed=7")
    record = json.loads((folder / "run.json").read_text())
    assert record["splits"]["train"]["utterances"] == 2
    assert 0 < record["splits"]["train"]["minutes"] < record["splits"]["validation"]["minutes"]
    assert record["splits"]["test"]["utterances"] == 5
    assert "few-shot: 2 of 5 training utterances, drawn by seed 7" in capsys.readouterr().out


def test_a_head_that_writes_cannot_be_shown_examples(manifest: Path, tmp_path: Path) -> None:
    words = ["data.max_rejected=0.2", "finetune=ctc", "finetune.train=[]", "objective=ctc", "data.in_context=1"]
    with pytest.raises(InputError, match="data.in_context=1 .* a CTC head writes"):
        run_small(tmp_path / "run", *manifest_words(manifest), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_late_rejection_stands_in_the_files_of_the_run(manifest: Path, tmp_path: Path) -> None:
    rows = []
    for index in range(12):
        silent = encode_wav(torch.zeros(16_000))
        (tmp_path / f"{index}.wav").write_bytes(
            silent if index == 5 else encode_wav(speak(f"Number {index}.", Voice()))
        )
        rows.append({"audio": f"{index}.wav", "text": f"Number {index}.", "language": "en"})
    train = write_rows(tmp_path / "train.jsonl", rows)
    words = [*manifest_words(manifest, train=train), "data.max_rejected=0.3", "data.listen_up_to=1"]
    run_small(tmp_path / "run", *words, "trainer.max_steps=8")
    with (tmp_path / "run" / "rejected.csv").open(newline="") as file:
        late = [row for row in csv.DictReader(file) if row["reason"].startswith("late: ")]
    assert [(row["split"], row["id"], row["reason"][:12]) for row in late] == [("train", "train-6", "late: silent")]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["rejected"]["silent"] == 1 and record["audit"]["listened"]["train"] == 1
