"""LibriSpeech, and whatever is laid out like it: SET/SPEAKER/CHAPTER/*.flac beside SPEAKER-CHAPTER.trans.txt."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from attune.data.corpora.places import Places
from attune.data.corpora.schema import build_dataset, language_code
from attune.errors import InputError

NESTED = "LibriSpeech"  # what the archives unpack to
TRANSCRIPTS = "*/*/*.trans.txt"


class LibriSpeechCorpus:
    """Splits made of the corpus's own sets, such as train-clean-100.

    Args:
        root: the folder that holds the sets, or one in which they lie under LibriSpeech/.
        train, validation, test: the sets that make each split.
        language: Whisper's code or name.
        lowercase: the transcripts are in capitals; a Whisper that learns to write so has forgotten how it wrote.
        audio_folders: where recordings may lie that are links, beside the root.
    """

    def __init__(
        self,
        root: str,
        train: Sequence[str] = ("train-clean-100",),
        validation: Sequence[str] = ("dev-clean",),
        test: Sequence[str] = ("test-clean",),
        language: str = "en",
        lowercase: bool = True,
        audio_folders: Sequence[str] = (),
    ):
        nested = Path(root) / NESTED
        self.root = nested if nested.is_dir() else Path(root)
        self.sets = {"train": list(train), "validation": list(validation), "test": list(test)}
        self.language = language_code(language)
        self.lowercase = lowercase
        self.places = Places(self.root, audio_folders)

    def splits(self) -> dict[str, Dataset]:
        for split, names in self.sets.items():
            self._check(split, names)
        return {split: build_dataset(self._rows(names)) for split, names in self.sets.items()}

    def _check(self, split: str, names: Sequence[str]) -> None:
        for name in names:
            if next((self.root / name).glob(TRANSCRIPTS), None) is None:
                there = sorted({path.parents[2].name for path in self.root.glob(f"*/{TRANSCRIPTS}")})
                raise InputError(
                    f"data.root={self.root}, data.{split}: there is no set {name!r} with SPEAKER/CHAPTER/"
                    f"SPEAKER-CHAPTER.trans.txt in it. The sets there are: {', '.join(there) or 'none'}. Give the "
                    f"folder that holds the sets as data.root, and their names as data.{split}=[...]."
                )

    def _rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            for path in sorted((self.root / name).glob(TRANSCRIPTS)):
                for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                    if text.strip():
                        yield self._row(text, path, line)

    def _row(self, text: str, path: Path, line: int) -> dict[str, Any]:
        id, _, transcript = text.strip().partition(" ")
        return {
            "id": id,
            "audio": {"path": self.places.check(path.parent / f"{id}.flac", f"{path}, line {line}"), "bytes": None},
            "text": transcript.lower() if self.lowercase else transcript,
            "language": self.language,
            "speaker": path.parents[1].name,
            "place": f"{path}, line {line}",
        }
