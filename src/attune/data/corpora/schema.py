"""What every corpus reader yields: one schema, whatever the source."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from datasets import Dataset, Features, List, Value

from attune.text.tokens import Segment

FEATURES = Features(
    {
        "id": Value("string"),  # unique within the corpus
        # Left as it is on disk; audio/waveform.py decodes it when it is needed. A plain struct and not datasets.Audio,
        # which asks for torchcodec and a system FFmpeg even with decode=False.
        "audio": {"path": Value("string"), "bytes": Value("binary")},
        "text": Value("string"),  # as written; "" is an utterance without speech
        "language": Value("string"),  # Whisper's code
        "task": Value("string"),  # transcribe or translate
        "speaker": Value("string"),  # null where it is not known
        "duration_s": Value("float32"),  # null until the audit has decoded it
        "start_s": Value("float32"),  # the part of the file that is the utterance; null for all of it
        "end_s": Value("float32"),
        "prompt": Value("string"),  # what was said before, or a list of terms; null for none
        "segments": List({"start_s": Value("float32"), "end_s": Value("float32"), "text": Value("string")}),
        "place": Value("string"),  # where a person finds this row: "train.jsonl, line 17"
    }
)
OPTIONAL = {"task": "transcribe", "speaker": None, "duration_s": None, "start_s": None, "end_s": None, "prompt": None}


class Corpus(Protocol):
    """A named set of splits. The names are the panels of run.json.

    `splits()` has the keys `train`, `validation`, `test` and any number of `retention/NAME`: what the model could do
    before, and should still do after.
    """

    def splits(self) -> Mapping[str, Dataset]: ...


def build_dataset(rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """Rows with at least id, audio, text, language and place -> a dataset of the schema."""
    return Dataset.from_list([{**OPTIONAL, "segments": [], **row} for row in rows], features=FEATURES)


def read_segments(row: Mapping[str, Any]) -> list[Segment]:
    """The timed parts of a row; [] where it has none."""
    return [Segment(part["start_s"], part["end_s"], part["text"]) for part in row["segments"] or []]
