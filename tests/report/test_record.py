"""run.json and predictions/*.csv: what is written is what is read, whatever happens in between."""

import csv
import io
import json
import math
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from attune.errors import InputError
from attune.report.predictions import PredictionRow, predictions_path, read_predictions, write_predictions
from attune.report.record import (
    RunRecord,
    collect_git,
    collect_versions,
    compute_change,
    is_clear,
    read_record,
    result_table,
    write_record,
)
from attune.score.metrics import Prediction

ACCENTS = {"a": "us"}


def predict(identifier: str, reference: str, hypothesis: str) -> Prediction:
    return Prediction(
        identifier, reference, hypothesis, speaker=None, language="en", duration_s=1.25, accent=ACCENTS.get(identifier)
    )


def test_a_record_comes_back_as_it_was(record: RunRecord, tmp_path: Path) -> None:
    write_record(record, tmp_path)
    found = read_record(tmp_path)
    assert found.result["test"]["wer_ci95"] == list(record.result["test"]["wer_ci95"])
    assert replace(found, baseline={}, result={}) == replace(record, baseline={}, result={})
    assert found.result["test"]["wer"] == record.result["test"]["wer"]


def test_what_is_not_a_number_is_null_and_the_file_is_strict_json(record: RunRecord, tmp_path: Path) -> None:
    record.train["mfu"] = math.inf
    record.result["retention/noise"] = {"wer": math.nan, "wer_ci95": (math.nan, math.nan), "words": 0}
    record.config["root"] = Path("/data/corpus")
    text = write_record(record, tmp_path).read_text("utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["train"]["mfu"] is None
    assert content["result"]["retention/noise"] == {"wer": None, "wer_ci95": [None, None], "words": 0}
    assert content["config"]["root"] == "/data/corpus"


def test_a_write_that_fails_leaves_the_old_record(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(record, tmp_path)

    def fill_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(InputError, match="disk is full"):
        write_record(replace(record, status="failed"), tmp_path)
    assert read_record(tmp_path).status == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_without_a_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        read_record(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["{", "\xff", "[]", '{"schema_version": 0}', '{"schema_version": 1, "nam": "x"}'])
def test_a_record_that_cannot_be_used_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"run\.json"):
        read_record(tmp_path)


def test_the_message_says_which_schema_was_found(record: RunRecord, tmp_path: Path) -> None:
    write_record(replace(record, schema_version=7), tmp_path)
    with pytest.raises(InputError, match="schema_version 7; this attune reads 1"):
        read_record(tmp_path)


def test_predictions_are_paired_by_id_and_counted_on_normalised_text(tmp_path: Path) -> None:
    before = [predict("b", "", "thank you"), predict("a", "Don't stop, now!", "stop now")]
    after = [predict("a", "Don't stop, now!", "don’t stop NOW"), predict("b", "", "")]
    after += [predict("a", "Don't stop, now!", "a repeat")]
    rows = read_predictions(write_predictions(tmp_path, "retention/us", before, after))
    assert rows == [
        PredictionRow("a", None, "en", 1.25, "Don't stop, now!", "stop now", "don’t stop NOW", 3, 1, 0, accent="us"),
        PredictionRow("b", None, "en", 1.25, "", "thank you", "", 0, 2, 0),
    ]
    assert predictions_path(tmp_path, "retention/us") == tmp_path / "predictions" / "retention-us.csv"


TEXTS = ["=1+1", "+49 30", "-5", "@home", "\tx", "\r\nx", "＝1", "'=1", "''=1"]
TEXTS += ["'cause", "'", 'a "b", c\nd', "שלום", "", " =1"]


def test_no_cell_is_a_formula_and_every_text_comes_back(tmp_path: Path) -> None:
    before = [predict(f"={index}", text, text) for index, text in enumerate(TEXTS)]
    path = write_predictions(tmp_path, "test", before, before)
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r\n＝＋－＠") - {""}]
    assert "'cause" in cells  # an apostrophe that hides no formula stays single
    rows = read_predictions(path)
    assert [row.reference for row in rows] == [row.before for row in rows] == [row.after for row in rows] == TEXTS
    assert [row.id for row in rows] == [prediction.id for prediction in before]


def test_different_utterances_before_and_after_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only one of them has \['b'\]"):
        write_predictions(tmp_path, "test", [predict("a", "x", "x")], [predict("a", "x", "x"), predict("b", "x", "x")])


@pytest.mark.parametrize("content", [None, "id,reference\na,b\n", "\x00\x00"])
def test_a_table_that_is_not_of_predictions_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    if content is not None:
        path.write_text(content)
    if content == "\x00\x00":
        path.write_bytes(b"\xff\xfe\x00id")
    with pytest.raises(InputError, match=r"test\.csv.*errors_after"):
        read_predictions(path)


def test_versions_name_every_package() -> None:
    versions = collect_versions()
    assert set(versions) == {"python", "attune", "torch", "torchaudio", "transformers", "lightning"} | {
        "peft", "datasets", "torchmetrics"
    }  # fmt: skip
    assert versions["torch"].startswith("2.")


def test_git_knows_commit_and_changes(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    assert collect_git(tmp_path) is None  # a repository without a commit
    (tmp_path / "train.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    assert collect_git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "train.py").write_text("2\n")
    assert collect_git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_git_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect_git(tmp_path) is None
    assert collect_git(tmp_path / "nowhere") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert collect_git(Path(__file__).parent) is None


def draw(record: RunRecord, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(result_table(record))
    return console.export_text().splitlines()


def test_the_table_has_one_line_a_panel_in_100_columns(record: RunRecord) -> None:
    record.result["test"] |= {"wer": 0.151, "wer_ci95": [0.107, 0.212]}
    record.baseline["test"] |= {"wer": 0.48, "wer_ci95": [0.433, 0.549]}
    line = next(line for line in draw(record, 100) if line.strip().startswith("test "))
    errors = "/".join(str(record.result["test"][kind]) for kind in ("substitutions", "deletions", "insertions"))
    words = [str(record.result["test"][count]) for count in ("utterances", "words")]
    assert line.split() == ["test", *words, "48.0", "[43.3–54.9]", "15.1", "[10.7–21.2]", "-32.9", errors]


def test_in_80_columns_no_value_is_broken(record: RunRecord) -> None:
    for scores in (record.baseline, record.result):
        scores["retention/noise"] = scores["test"]
    cells = " ".join(draw(record, 80)).split()
    assert {"test", "retention/us", "retention/noise"} <= set(cells)
    for panel in record.result.values():
        lower, upper = (f"{100 * bound:.1f}" for bound in panel["wer_ci95"])
        assert f"[{lower}–{upper}]" in cells


def test_a_panel_that_was_not_scored_is_shown_as_such(record: RunRecord) -> None:
    record.result = {}
    assert any("n/a" in line for line in draw(record, 100) if "retention/us" in line)


def test_a_change_is_clear_where_the_intervals_are_apart() -> None:
    before = {"wer": 0.3, "wer_ci95": (0.27, 0.33)}
    assert is_clear(before, {"wer": 0.2, "wer_ci95": [0.18, 0.26]})
    assert is_clear({"wer": 0.2, "wer_ci95": [0.18, 0.26]}, before)
    assert not is_clear(before, {"wer": 0.2, "wer_ci95": [0.18, 0.28]})
    for unknown in (math.nan, None):
        assert not is_clear(before, {"wer": unknown, "wer_ci95": (unknown, unknown)})
        assert compute_change(before, {"wer": unknown}) is None
