"""The page of attune prefer in a headless Chromium, and its program killed in the middle."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, find_chromium
from test_make_pairs import WORDS
from whispers import awaken

from attune.data.corpora.pairs import PairsCorpus
from attune.data.corpora.schema import REJECTED
from attune.model.save import save_whisper
from attune.model.whisper import Whisper
from attune.report.record import read_record
from attune.use.candidates import Wanted
from attune.use.cli import main
from attune.use.prefer import ANSWERS, Session

ROOT = Path(__file__).parents[2]
SPOKEN = "Something <b>else</b> & more."
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(nano_like: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_whisper(awaken(nano_like, seed=3), folder)
    return folder


class Program:
    """`attune prefer` in a process of its own."""

    def __init__(self, model: Path, folder: Path, cache: str):
        command = [sys.executable, "-m", "attune.use.cli", "prefer", str(model), str(folder), "--port=0", "--limit=6"]
        environment = os.environ | {"ATTUNE_CACHE": cache}
        self.process = subprocess.Popen(
            [*command, "--data", *WORDS], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        assert self.process.stdout is not None
        said = ""
        while "Open " not in said:
            line = self.process.stdout.readline()
            assert line, said
            said += line
        found = re.search(r"http://\S+", said)
        assert found is not None
        self.said, self.url = said, found[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ANSWERS).read_text("utf-8").splitlines()]


def wait_for(page: Page, done: int) -> None:
    page.wait(f"document.getElementById('bar')?.value === {done}")


def list_texts(page: Page) -> list[str]:
    return page.ask("[...document.querySelectorAll('.text')].map((side) => side.textContent)")


@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium to drive")
def test_a_person_answers_and_the_program_is_killed(model: Path, tmp_path: Path, speech_cache: str) -> None:
    folder = tmp_path / "folder"
    program = Program(model, folder, speech_cache)
    try:
        with Page(f"{program.url}?rater=anna", tmp_path / "profile") as page:
            page.wait("document.getElementById('question')?.hidden === false")
            page.wait("document.getElementById('count').textContent === '0 of 6 questions'")

            page.press(" ")
            page.wait("document.getElementById('audio').currentTime > 0.1")
            for done, key in enumerate("abt", start=1):
                page.press(key)
                wait_for(page, done)
            page.click('[data-choice="bad"]')
            wait_for(page, 4)
            page.press("z")
            wait_for(page, 3)
            page.press("x")
            wait_for(page, 4)

            page.press("c")
            assert page.ask("document.activeElement.id") == "text"
            page.press("a")  # a letter in the text, and no choice
            assert page.ask("document.getElementById('text').value").endswith("a")
            page.ask(f"document.getElementById('text').value = {json.dumps(SPOKEN)}")
            page.press("Enter", modifiers=2)  # with Ctrl
            wait_for(page, 5)
            last = list_texts(page)

            program.kill()
            rows = read(folder)
            assert [row["answer"] in ("first", "second") for row in rows[:2]] == [True, True]
            assert [row["answer"] for row in rows[2:]] == ["tie", "bad", "corrected"]
            assert rows[4]["chosen"] == SPOKEN
            page.press("a")
            page.wait("document.getElementById('notice').textContent.includes('does not answer')")
            assert read(folder) == rows

        program = Program(model, folder, speech_cache)
        assert program.said.startswith("5 answers so far")
        with Page(f"{program.url}?rater=anna", tmp_path / "another") as page:
            wait_for(page, 5)
            page.wait("document.getElementById('question')?.hidden === false")
            assert list_texts(page) == last
            page.call("Page.reload")
            time.sleep(0.5)
            wait_for(page, 5)
            assert list_texts(page) == last and page.ask("document.getElementById('rater').value") == "anna"
            for width in (1280, 390):
                page.resize(width, 900)
                assert page.ask("document.documentElement.scrollWidth") <= width
            page.click("#b")
            wait_for(page, 6)
            page.wait("document.getElementById('done').textContent.includes('That was all')")
            assert page.faults == []
        split = PairsCorpus(str(folder / ANSWERS), str(folder / "validation.jsonl")).splits()["train"]
        assert len(split) == 4 and SPOKEN in list(split["text"]) and None not in list(split[REJECTED])
    finally:
        program.kill()


def test_dpo_learns_from_the_answers(
    model: Path, tmp_path: Path, speech_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """attune prefer --train, as a user types it; its folder's name is none that Hydra likes."""
    monkeypatch.setenv("ATTUNE_CACHE", speech_cache)
    folder = tmp_path / "Ann's choices, 2"
    session = Session(folder, Wanted(str(model), WORDS, limit=6, samples=2))
    session.drawing.join()
    for choice in ("a", "b", "tie", "a"):
        session.poll.answer(session.poll.find_open("anna")[0].number, "anna", choice)
    session.close()
    words = ["trainer.max_steps=2", "trainer.accelerator=cpu", "logger=csv", "objective.beta=0.2"]
    monkeypatch.setattr(sys, "argv", ["attune", "prefer", str(model), str(folder), "--train", "--words", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    record = read_record(folder / "runs" / "1")
    assert record.status == "finished" and record.splits["train"]["utterances"] == 3
    assert record.config["objective"]["beta"] == 0.2 and record.config["optimizer"]["rate_share"] == 0.1
    assert session.runs.describe_offer(session.model) is not None
