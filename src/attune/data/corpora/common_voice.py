"""Mozilla Common Voice: one language of an unpacked release, as the Mozilla Data Collective hands it out.

    LANGUAGE/{train,dev,test,validated,other,invalidated}.tsv   client_id path sentence up_votes down_votes accents ...
    LANGUAGE/clips/*.mp3
    LANGUAGE/clip_durations.tsv                                 clip duration[ms]

No clip is opened here: one that is missing or empty is set aside by the audit, with its line.
"""

import csv
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from attune.data.corpora.division import SPLITS, check_shares, divide
from attune.data.corpora.places import Places
from attune.data.corpora.schema import build_dataset, language_code
from attune.errors import InputError

CLIPS = "clips"
DURATIONS = "clip_durations.tsv"
NEEDED = ("client_id", "path", "sentence")
EXPECTED = (
    "Expected is the folder of one language of an unpacked release: {train,dev,test,validated,...}.tsv beside clips/"
)


class CommonVoiceCorpus:
    """Splits of one language; a speaker is a client_id, and none of train stands in validation or test.

    Args:
        root: the language's folder, or the release's where `language` names the folder in it.
        language: Whisper's code or name; None takes the column `locale` ("sv-SE" is "sv").
        train, validation, test: which tsv files, without the suffix. Where train is `validated` or `other`, the
            speakers of the two others are left out of it.
        resplit: one tsv that is divided anew by speaker, in place of these three.
        shares: of train, validation and test, where it is divided.
        split_seed: of the division and of the limits.
        min_up_votes, max_down_votes: a clip needs as many, or may have as many; of every split.
        accents: words of which the column `accents` must hold one, in any case, and not only as a part of a word ("us"
            is not in "Australian"); of every split. None asks for none.
        limits: split -> at most so many clips, drawn by the seed.
        audio_folders: where clips may lie that are links, beside the language's folder.
    """

    def __init__(
        self,
        root: str,
        language: str | None = None,
        train: str = "train",
        validation: str = "dev",
        test: str = "test",
        resplit: str | None = None,
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        min_up_votes: int = 0,
        max_down_votes: int | None = None,
        accents: Sequence[str] = (),
        limits: Mapping[str, int | None] | None = None,
        audio_folders: Sequence[str] = (),
    ):
        self.root = Path(root)
        self.language = language
        self.tables: dict[str, str] = {"train": train, "validation": validation, "test": test}
        if resplit:
            self.tables = dict.fromkeys(SPLITS, resplit)
        self.divided = bool(resplit)
        self.shares = check_shares(shares)
        self.split_seed = split_seed
        self.min_up_votes = min_up_votes
        self.max_down_votes = max_down_votes
        self.accents = [accent.casefold() for accent in accents]
        self.limits = dict(limits or {})
        self.audio_folders = list(audio_folders)

    def splits(self) -> dict[str, Dataset]:
        folder = find_folder(self.root, self.tables["train"], self.language)
        belongs = self._choose_speakers(folder)
        durations_s = load_durations(folder / DURATIONS)
        return {split: self._build(folder, split, belongs[split], durations_s) for split in SPLITS}

    def _choose_speakers(self, folder: Path) -> dict[str, Callable[[str], bool]]:
        """Split -> whether a speaker may stand in it."""
        if self.divided:
            sizes = Counter(raw["client_id"] for _, raw in self._filter(folder, "train"))
            places = divide(sizes, self.shares, self.split_seed, "speakers")
            return {split: lambda speaker, split=split: places[speaker] == split for split in SPLITS}
        held_out = {raw["client_id"] for split in SPLITS[1:] for _, raw in self._read(folder, split)}
        return {split: lambda speaker, split=split: split != "train" or speaker not in held_out for split in SPLITS}

    def _build(
        self, folder: Path, split: str, belongs: Callable[[str], bool], durations_s: Mapping[str, float]
    ) -> Dataset:
        def rows() -> Iterator[tuple[int, Mapping[str, str]]]:
            return ((line, raw) for line, raw in self._filter(folder, split) if belongs(raw["client_id"]))

        drawn = self._draw(split, rows)
        table = folder / f"{self.tables[split]}.tsv"
        places = Places(folder, self.audio_folders)
        dataset = build_dataset(
            self._row(raw, folder, f"{table}, line {line}", durations_s, places)
            for index, (line, raw) in enumerate(rows())
            if drawn is None or index in drawn
        )
        if len(dataset) == 0:
            raise InputError(
                f"data.root={self.root}: {self.tables[split]}.tsv leaves no utterance for {split}. Look at "
                f"data.min_up_votes={self.min_up_votes}, data.max_down_votes={self.max_down_votes} and "
                f"data.accents={self.accents}; and no speaker of validation or test is trained on."
            )
        return dataset

    def _draw(self, split: str, rows: Callable[[], Iterator[Any]]) -> set[int] | None:
        """Which of a split's rows are kept; None for all."""
        limit = self.limits.get(split)
        if limit is None:
            return None
        count = sum(1 for _ in rows())
        return set(random.Random(f"{self.split_seed} {split}").sample(range(count), min(limit, count)))

    def _row(
        self, raw: Mapping[str, str], folder: Path, place: str, durations_s: Mapping[str, float], places: Places
    ) -> dict[str, Any]:
        clip = raw["path"]
        locale = (raw.get("locale") or folder.name).split("-")[0]
        return {
            "id": Path(clip).stem,
            "audio": {"path": places.check(folder / CLIPS / clip, place), "bytes": None},
            "text": raw["sentence"],
            "language": language_code(self.language or locale),
            "speaker": raw["client_id"] or None,
            "accent": _find_accent(raw) or None,
            "duration_s": durations_s.get(clip),
            "place": place,
        }

    def _filter(self, folder: Path, split: str) -> Iterator[tuple[int, Mapping[str, str]]]:
        for line, raw in self._read(folder, split):
            up, down = (int(raw.get(name) or 0) for name in ("up_votes", "down_votes"))
            accents = _find_accent(raw).casefold()
            enough = up >= self.min_up_votes and (self.max_down_votes is None or down <= self.max_down_votes)
            if enough and (not self.accents or any(has_word(accents, accent) for accent in self.accents)):
                yield line, raw

    def _read(self, folder: Path, split: str) -> Iterator[tuple[int, Mapping[str, str]]]:
        key = f"data.{'resplit' if self.divided else split}={self.tables[split]}"
        path = folder / f"{self.tables[split]}.tsv"
        if not path.is_file():
            there = ", ".join(sorted(other.stem for other in folder.glob("*.tsv") if other.name != DURATIONS))
            raise InputError(f"{key}: there is no {path}. The release has: {there}.")
        yield from read_table(path, key)


def has_word(text: str, wanted: str) -> bool:
    """Whether some words stand in a text, whole."""
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text) is not None


def _find_accent(raw: Mapping[str, str]) -> str:
    return raw.get("accents") or raw.get("accent") or ""  # `accent` before release 8


def read_table(path: Path, key: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line number, row) of a release's tsv. A quote is a letter like any other.

    Raises:
        InputError: it is no such table; or a row has more fields than there are columns, or votes that are no number.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            missing = [column for column in NEEDED if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{key}: {path} has no column {', '.join(missing)}. It has: {', '.join(reader.fieldnames or ())}. "
                    f"{EXPECTED}."
                )
            for raw in reader:
                votes = [raw.get(name) or "0" for name in ("up_votes", "down_votes")]
                if None in raw or None in raw.values() or not all(map(str.isdecimal, votes)):
                    raise InputError(
                        f"{path}, line {reader.line_num} has other columns than the first line, or votes {votes} that "
                        "are no numbers. Unpack the release again."
                    )
                yield reader.line_num, raw
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{key}: {path} cannot be read: {error}. {EXPECTED}, in UTF-8.") from None


def find_folder(root: Path, table: str, language: str | None) -> Path:
    """The folder of the language, which is the root or lies in it.

    Raises:
        InputError: neither holds the table and the clips; with what was found.
    """
    for folder in (root, *([root / language] if language else [])):
        if (folder / f"{table}.tsv").is_file() and (folder / CLIPS).is_dir():
            return folder
    languages = sorted(path.parent.name for path in root.glob(f"*/{table}.tsv"))
    packed = sorted(path.name for path in root.glob("*.tar*"))
    found = "There is no such folder." if not root.is_dir() else f"It holds no {table}.tsv beside a folder clips/."
    if languages:
        found = f"It holds the languages {', '.join(languages)}: give one of these folders."
    elif packed:
        found = f"It holds {', '.join(packed)}: unpack it first."
    raise InputError(f"data.root={root}: {found} {EXPECTED}.")


def load_durations(path: Path) -> dict[str, float]:
    """Clip -> seconds, where the release tells them; the audit measures them again where it decodes."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row[0]: int(row[1]) / 1000 for row in rows if len(row) > 1 and row[1].isdecimal()}
