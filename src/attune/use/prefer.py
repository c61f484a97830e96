"""`attune prefer`: people choose between two transcripts, DPO learns from it, and they go on with the new model.

FOLDER/
  session.json       what is asked about; the same command goes on
  preferences.jsonl  a line an answer, as data=pairs reads it
  candidates.jsonl   the transcripts that were drawn; audio/ where the corpus has no files
  validation.jsonl, test.jsonl   transcripts of the corpus, for the training
  train_N.jsonl, runs/N          what the N-th training learnt from, and its run
"""

import fcntl
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attune.audio.waveform import encode_wav, load_waveform
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.report.record import write_atomically
from attune.use.candidates import DRAWN, Wanted, describe_candidate, draw_candidates
from attune.use.dpo_runs import DpoRuns
from attune.use.journal import Journal
from attune.use.pairs import choose_config, describe_utterance, read_data, write_transcripts
from attune.use.preferences import ANSWERED, Poll, check_rater, mark_differences
from attune.use.transcribe import load_listening

SESSION, ANSWERS, CANDIDATES = "session.json", "preferences.jsonl", "candidates.jsonl"
Load = Callable[[], tuple[Whisper, SpeechDataModule]]


def settle(folder: Path, given: Mapping[str, Any]) -> Wanted:
    """The settings of a folder, new or begun.

    Args:
        given: on the command line; None is the folder's, or the default.

    Raises:
        InputError: the folder is another's, or was begun with other settings.
    """
    given = {name: value for name, value in given.items() if value is not None}
    path = folder / SESSION
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty, and no folder of attune prefer. Give a new one.")
        return Wanted(**given)
    try:
        kept = Wanted(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give a new folder, or the file as it was.") from None
    for name, value in given.items():
        if getattr(kept, name) != value:
            raise InputError(
                f"{folder} was begun with {name}={getattr(kept, name)}, and now {name} is {value}. What people are "
                "asked about stays the same: leave that out, or give a new folder."
            )
    return kept


class Session:
    """A folder in which people answer.

    Args:
        wanted: as `settle` gives it.
        device: auto, cpu or cuda; for the transcripts.
        words: for train.py, in every training.

    Raises:
        InputError: the model, the corpus or the folder cannot be used, or another process has it.
    """

    def __init__(self, folder: Path, wanted: Wanted, device: str = "auto", words: Sequence[str] = ()):
        self.folder, self.wanted, self.device = folder, wanted, device
        self.config = choose_config(wanted.model, wanted.data)
        is_new = not (folder / SESSION).is_file()
        load = self._prepare(wanted.model) if is_new else None
        self._begin(load)
        self.lock = self._take()
        answers = Journal(folder / ANSWERS, ANSWERED)
        candidates = Journal(folder / CANDIDATES, DRAWN)
        self.poll = Poll(candidates, answers, wanted.seed)
        self.runs = DpoRuns(folder, wanted.model, words)
        self.notice, self.fault = answers.torn, ""
        self.model = self._find_model()
        self.guard = threading.Lock()
        self.stopping = threading.Event()
        self._start(load or self._prepare(self.model), self.poll.round)

    def _prepare(self, model: str) -> Load:
        whisper = load_listening(model, self.device)
        data = read_data(whisper, self.config, self.wanted.limit, self.wanted.seed)
        return lambda: (whisper, data)

    def _begin(self, load: Load | None) -> None:
        """Fill a new folder; session.json comes last, so that a folder that has it is whole."""
        if load is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for split in ("validation", "test"):
                write_transcripts(load()[1], split, self.folder)
            write_atomically(self.folder / SESSION, json.dumps(asdict(self.wanted), ensure_ascii=False, indent=2))
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error.strerror}). Give another folder.") from None

    def _take(self) -> Any:
        """A lock that ends with this process, however it ends."""
        file = (self.folder / SESSION).open("rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"Another attune prefer has {self.folder} open. Use its page (several people can, each under a name), "
                "or give another folder."
            ) from None
        return file

    def _find_model(self) -> str:
        """Whose transcripts were drawn last."""
        rows = self.poll.candidates.rows
        return str(rows[-1]["model"]) if rows else self.wanted.model

    def _start(self, load: Load, round: int) -> None:
        self.fault = ""
        self.drawing = threading.Thread(target=self._draw, args=(load, self.model, round), daemon=True)
        self.drawing.start()

    def _draw(self, load: Load, model: str, round: int) -> None:
        candidates = self.poll.candidates
        known = {row["id"] for row in candidates.rows if row["round"] == round}
        try:
            whisper, data = load()
            places = {id: index for index, id in enumerate(data.splits["train"]["id"])}
            for id, texts in draw_candidates(whisper, data, self.wanted, round, known):
                if self.stopping.is_set():
                    return
                about = describe_utterance(data, "train", places[id], self.folder)
                candidates.append(describe_candidate(about, round, model, texts))
        except Exception as error:  # in a thread: the page tells of it, and goes on with what was drawn
            said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            self.fault = f"No more transcripts could be drawn. {said}"
            self.model = self._find_model()

    def renew(self) -> None:
        """Go on with the transcripts of the newest model that was trained here.

        Raises:
            InputError: there is none, or transcripts are still being drawn.
        """
        with self.guard:
            if self.drawing.is_alive():
                raise InputError("Transcripts are still being drawn.")
            offered = self.runs.find_offered(self.model)
            if offered is None:
                raise InputError("There is no newer model. Train first.")
            self.model = str(offered)
            self._start(lambda: self._prepare(str(offered))(), self.poll.round + 1)

    def train(self) -> None:
        """Train beside the page.

        Raises:
            InputError: a training is at work, or there is nothing to learn from.
        """
        with self.guard:
            self.runs.start(self.folder / ANSWERS)

    def load_audio(self, number: int) -> bytes:
        """What the model heard, as a WAV file; of the utterances that were drawn and of no other file.

        Raises:
            InputError: there is no such utterance.
            AudioError: its file is gone.
        """
        rows = self.poll.candidates.rows
        if not 0 <= number < len(rows):
            raise InputError(f"There is no utterance {number}.")
        row = rows[number]
        return encode_wav(load_waveform(self.folder / row["audio"], row.get("start_s"), row.get("end_s")))

    def describe(self, rater: str) -> dict[str, Any]:
        """What a rater's page shows.

        Raises:
            InputError: the name is none.
        """
        rater = check_rater(rater)
        open_questions = self.poll.find_open(rater)
        round = self.poll.round
        drawn = [row for row in self.poll.candidates.rows if row["round"] == round]
        asked = sum(row["texts"] is not None for row in drawn)
        return {
            "rater": rater,
            "question": _describe_question(open_questions),
            "done": asked - len(open_questions),
            "asked": asked,
            "alike": len(drawn) - asked,
            "drawing": self.drawing.is_alive(),
            "round": round,
            "pairs": self.poll.count_pairs(),
            "raters": self.poll.count_raters(),
            "agreement": _describe_agreement(self.poll),
            "training": self.runs.describe(),
            "offer": self.runs.describe_offer(self.model),
            "notices": [text for text in (self.notice, self.fault) if text],
        }

    def close(self) -> None:
        self.stopping.set()
        self.runs.stop()
        self.lock.close()


def _describe_question(questions: Sequence[Any]) -> dict[str, Any] | None:
    if not questions:
        return None
    question, language = questions[0], questions[0].row.get("language")
    one, other = question.texts
    marked = mark_differences(one, other, language)
    return {
        "number": question.number,
        "next": questions[1].number if len(questions) > 1 else None,
        "language": language,
        "sides": [{"text": text, "marked": pieces} for text, pieces in zip(question.texts, marked, strict=True)],
    }


def _describe_agreement(poll: Poll) -> dict[str, Any] | None:
    found = poll.compute_agreement()
    if found is None:
        return None
    return {**asdict(found), "kappa": None if found.kappa != found.kappa else found.kappa}  # JSON has no NaN
