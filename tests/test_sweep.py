"""Several runs from one command: how they are named, what ends one of them, and what is left at the end."""

import csv
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_train import ROOT, SMALL, manifest_words, write_rows

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.report.record import RunRecord, write_record
from attune.report.runs import read_plan, write_plan
from attune.use.config import _to_file_name
from attune.use.sweep import check_sweep, describe_wandb_sweep, find_least, find_unfinished, find_words, list_jobs

CONFIGS = ROOT / "configs"
ABLATIONS = sorted(path.stem for path in (CONFIGS / "ablation").glob("*.yaml"))
NOT_AMONG_TYPES = {"layers"}  # configs/ablation/types.yaml says why


def make_sweep(params: dict[str, str] | None, *words: str) -> Any:
    return OmegaConf.create({"hydra": {"sweeper": {"params": params}, "overrides": {"task": list(words)}}})


def test_the_last_word_about_a_key_says_whether_it_is_swept() -> None:
    params = {"finetune": "glob(*,exclude=[a,b])", "seed": "1,2"}
    sweep = make_sweep(params, "seed=3", "data.shots=8,null", "logger=csv")
    assert find_words(sweep) == {"finetune": True, "seed": False, "data.shots": True, "logger": False}
    assert find_words(make_sweep(None, "+x=[1,2]", "seed=range(3)")) == {"x": False, "seed": True}


def test_a_folder_is_named_by_what_differs() -> None:
    assert _to_file_name("data.shots=8,finetune=lora") == "data.shots=8,finetune=lora"
    assert _to_file_name("data.train=/a b/c.jsonl") == "data.train=-a-b-c.jsonl"
    assert len(_to_file_name("x" * 300)) == 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"resume": "runs/a", "folder": None}, "resume continues one run"),
        ({"resume": None, "folder": "runs/a"}, r"folder=runs/a is the folder of one run.*hydra.sweep.dir=runs/a"),
    ],
)
def test_what_cannot_hold_for_several_runs(words: dict[str, str | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_sweep(OmegaConf.create({**words, "hydra": {"sweep": {"dir": str(tmp_path)}}}))


def test_the_jobs_of_a_sweep_are_its_swept_words() -> None:
    sweep = make_sweep({"seed": "1,2"}, "finetune=full,lora", "logger=csv", "data.shots=8")
    assert list_jobs(sweep) == []  # another sweeper decides by itself
    sweep.hydra.sweeper["_target_"] = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    assert list_jobs(sweep) == [[f"seed={seed}", f"finetune={name}"] for seed in (1, 2) for name in ("full", "lora")]
    assert list_jobs(make_sweep(None, "seed=1")) == []
    # A named ablation's key to which the command line gives one value names no run, and so no job either.
    settled = make_sweep({"seed": "1,2,3"}, "seed=1", "finetune=full,lora")
    settled.hydra.sweeper["_target_"] = sweep.hydra.sweeper["_target_"]
    assert list_jobs(settled) == [["finetune=full"], ["finetune=lora"]]


def make_plan(folder: Path, words: list[str], process: int = -1, finished: bool = False) -> Path:
    write_plan(folder, {"words": words, "jobs": [["seed=1"], ["seed=2"]], "host": platform.node(), "process": process})
    for seed in (1, 2) if finished else (1,):
        write_record(RunRecord(name=f"seed={seed}", seed=seed, config={}, status="finished"), folder / f"0{seed}")
    return folder


def test_a_stopped_sweep_is_found_by_its_words(tmp_path: Path) -> None:
    default, words = tmp_path / "2026_new", ["seed=1,2"]
    dead = subprocess.Popen(["true"])
    dead.wait()
    assert find_unfinished(default, words) is None
    first = make_plan(tmp_path / "2024_old", words, dead.pid)
    assert find_unfinished(default, words) == first
    make_plan(tmp_path / "2025_done", words, dead.pid, finished=True)
    make_plan(tmp_path / "2025_other", [*words, "logger=csv"], dead.pid)
    make_plan(tmp_path / "2025_at_work", words, os.getppid())
    (tmp_path / "2025_broken").mkdir()
    (tmp_path / "2025_broken" / "sweep.json").write_text("{")
    assert find_unfinished(default, words) == first
    assert read_plan(tmp_path / "2025_broken") == {}


def compose_jobs(name: str) -> list[list[str]]:
    """The words of every run of a named ablation, as Hydra's own sweeper makes them."""
    text = OmegaConf.load(CONFIGS / "ablation" / f"{name}.yaml")
    words = [f"{key}={value}" for key, value in text.hydra.sweeper.params.items()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return BasicSweeper.split_arguments(parser.parse_overrides(words), None)[0]


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_run_of_a_named_ablation_composes(name: str) -> None:
    jobs = compose_jobs(name)
    assert len(jobs) > 1 and len(set(map(tuple, jobs))) == len(jobs)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for job in (job for job in jobs if "seed=1" in job):
            config = compose("train", [f"ablation={name}", *job, "name=test"])
            assert config.seed == 1 and "ablation" not in config
        whole = compose("train", [f"ablation={name}", "name=test"], return_hydra_config=True)
    assert (whole.hydra.mode.name, whole.hydra.sweep.subdir) == ("MULTIRUN", ".")
    assert whole.hydra.sweep.dir.startswith("runs/") and whole.hydra.sweep.dir.endswith(f"_{name}")


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_named_ablation_is_a_wandb_sweep_of_as_many_runs(name: str) -> None:
    sweep = yaml.safe_load(describe_wandb_sweep(name, CONFIGS))
    assert sweep["command"][-1] == "${args_no_hyphens}" and sweep["program"] == "train.py"
    sizes = [len(each.get("values", [0])) for each in sweep["parameters"].values()]
    assert math.prod(sizes) == len(compose_jobs(name))
    assert sweep["parameters"].get("seed", {}) in ({}, {"values": ["1", "2", "3"]})
    with pytest.raises(InputError, match=r"There is no ablation=tipes. There are: .*types"):
        describe_wandb_sweep("tipes", CONFIGS)


def test_every_type_is_among_the_types() -> None:
    words = {word for job in compose_jobs("types") for word in job}
    swept = {word.removeprefix("finetune=") for word in words if word.startswith("finetune=")}
    assert swept == {path.stem for path in (CONFIGS / "finetune").glob("*.yaml")} - NOT_AMONG_TYPES


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = ["One two.", "Three four.", "Five six.", "Seven eight.", "Nine ten."]
    for index, text in enumerate(texts):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
    rows = [{"audio": f"{index}.wav", "text": text, "language": "en"} for index, text in enumerate(texts)]
    return write_rows(folder / "train.jsonl", rows)


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, f"hydra.sweep.dir={folder}", *words],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


@pytest.mark.slow
def test_a_sweep_in_which_some_runs_fail(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = ["finetune=full,none", "data.shots=4,0", "seed=1,2"]
    result = run(*manifest_words(manifest), *words, folder=folder)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("the sweep goes on: data.shots is 0") == 4
    names = [path.parent.name for path in sorted(folder.glob("*/run.json"))]
    assert names[0] == "00_data.shots=4,finetune=full,seed=1"
    assert [name[:2] for name in names] == [f"{number:02d}" for number in range(8)]
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json"))]
    assert records[0]["name"] == "data.shots=4,finetune=full,seed=1"
    assert records[0]["config"]["choices"]["finetune"] == "full"
    assert sorted(record["status"] for record in records) == ["failed"] * 4 + ["finished"] * 4
    assert all((folder / name / "report.html").is_file() for name in names if "shots=4" in name)
    with (folder / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    full = next(row for row in rows if row["seed"] == "mean of 2" and "finetune=full" in row["setting"])
    scores = [record["result"]["test"]["wer"] for record in records[:2]]
    assert float(full["wer_after"]) == pytest.approx(sum(scores) / 2)
    assert full["setting"] == "finetune=full data.shots=4"
    assert (folder / "figures" / "ablation.png").is_file() and (folder / "figures" / "shots.png").is_file()
    assert "report.html" in (folder / "ablation.html").read_text()
    assert "it shows differences in WER from about" in result.stdout
    seconds = [record["train"]["first_step_after_s"] for record in records if record["train"].get("steps")]
    assert len(seconds) == 2 and seconds[1] < seconds[0]  # the second did not wait for the program to start
    again = subprocess.run(
        [sys.executable, "-m", "attune.use.cli", "report", str(folder)], capture_output=True, text=True, check=False
    )
    assert again.returncode == 1 and "data.shots=0" in again.stdout


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "ablation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_runs_side_by_side_end_in_one_table(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install -e '.[sweep]'")
    folder = tmp_path / "sweep"
    words = ["finetune=full,none", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    result = run(*manifest_words(manifest), *words, folder=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("ablation: ") == 1
    assert [row["setting"] for row in read_table(folder)] == ["finetune=full", "finetune=none"]
    assert {row["status"] for row in read_table(folder)} == {"finished"}


@pytest.mark.slow
def test_a_search_goes_by_validation(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[sweep]'")
    folder = tmp_path / "sweep"
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    rate = "optimizer.learning_rate=tag(log, interval(1e-5, 1e-2))"
    result = run(*manifest_words(manifest), *words, rate, folder=folder)
    assert result.returncode == 0, result.stderr
    found = [find_least(path.parent) for path in folder.glob("*/run.json")]
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert len(found) == 2 and best["best_value"] == min(value for value in found if value is not None)
    assert 1e-5 <= best["best_params"]["optimizer.learning_rate"] <= 1e-2


def test_what_a_search_goes_by(tmp_path: Path) -> None:
    assert find_least(tmp_path) is None
    (tmp_path / "metrics.csv").write_text("step,val/wer,train/loss\n0,,2.0\n1,0.5,1.0\n2,0.25,0.5\n3,0.75,0.1\n")
    assert find_least(tmp_path) == 0.25


@pytest.mark.slow
def test_a_mistyped_option_ends_a_sweep_before_its_first_run(tmp_path: Path) -> None:
    result = run("finetune=full,lorra", folder=tmp_path / "sweep")
    assert result.returncode == 2
    assert "There is no finetune=lorra" in result.stderr
    assert not list(tmp_path.glob("sweep/*/run.json"))


def wait_for_a_finished_run(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Until so many runs below a folder have finished, and for at most five minutes."""
    for _ in range(3000):
        records = [path.read_text() for path in folder.glob("runs/*/*/run.json")]
        if sum('"status": "finished"' in text for text in records) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    pytest.fail("no run has finished")


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_goes_on_to_the_whole_table(manifest: Path, tmp_path: Path) -> None:
    """And its numbers are those of single runs."""
    command = [sys.executable, str(ROOT / "train.py"), *manifest_words(manifest), *SMALL]
    swept = ["finetune=none,full,bias", "seed=1", "-m"]  # behind the words: argparse takes them in one go
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    for finished in (1, 2):
        process = subprocess.Popen([*command, *swept], cwd=tmp_path, env=alone, stdout=subprocess.PIPE, text=True)
        wait_for_a_finished_run(process, tmp_path, finished)
        process.kill()
        process.communicate()  # a zombie would still count as a process
    last = subprocess.run([*command, *swept], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    (folder,) = tmp_path.glob("runs/*_ablation")
    assert "goes on in" in last.stdout and last.stdout.count("finished before, in") >= 2
    with (folder / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished"] * 3
    single = subprocess.run(
        [*command, "finetune=full", "seed=1", "folder=single"],
        cwd=tmp_path,
        env=alone,
        capture_output=True,
        check=False,
    )
    assert single.returncode == 0
    wer = json.loads((tmp_path / "single" / "run.json").read_text())["result"]["test"]["wer"]
    assert {float(row["wer_after"]) for row in rows if row["setting"] == "finetune=full"} == {wer}
