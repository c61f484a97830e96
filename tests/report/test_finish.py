"""What the screen says at the beginning and the end of a run is what it was told to say."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from attune.report import finish
from attune.report.finish import _describe_examples, describe_run, print_result
from attune.report.record import RunRecord

HOSTILE = "[exp] [/b] [n/a–n/a]"


@pytest.fixture
def console() -> Console:
    return Console(width=400, file=io.StringIO(), record=True)


def test_brackets_in_names_and_folders_stay(
    record: RunRecord, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "describe_audit", lambda _: [f"audit: {HOSTILE} rows", f"doubt: {HOSTILE}"])
    data = SimpleNamespace(audit=None, languages={"en"}, drawn=f"drawn: {HOSTILE}", rejections=[1])
    record.name, folder = f"name {HOSTILE}", Path(f"runs/{HOSTILE}")
    describe_run(console, record, data, folder, rate="1e-4")  # type: ignore[arg-type]
    monkeypatch.setattr(finish, "describe_terms", lambda _: f"terms: {HOSTILE}")
    monkeypatch.setattr(finish, "explain_additions", lambda _: f"additions: {HOSTILE}")
    print_result(console, record, folder)
    said = console.export_text()
    for told in ("name", "in runs/", "audit:", "doubt:", "drawn:", "terms:", "additions:", "report: runs/"):
        assert f"{told}{'' if told.endswith('/') else ' '}{HOSTILE}" in said
    assert said.count(f"runs/{HOSTILE}") == 5  # the folder, the audit, what was set aside, the report, the model


def test_one_example_is_called_one() -> None:
    counts = {"examples": 1, "utterances": 4, "left_out": 0}
    assert _describe_examples(counts) == ("in context: 1 training utterance before each that is scored, in the result")
    assert "3 training utterances before each" in _describe_examples({**counts, "examples": 3})
