"""A folder of recordings: text of the same name beside each, or one metadata.csv for all of them.

talk.wav  talk.txt or talk.lab                  one utterance
talk.wav  talk.TextGrid, talk.srt or talk.vtt   cut into utterances at its times
metadata.csv (.tsv, .jsonl)                     columns file_name (or audio) and text, and those of a manifest; where
                                                `split` names the split of one row, it names that of each
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset

from attune.audio.waveform import WINDOW_S
from attune.data.corpora.division import SPLITS, check_shares, divide
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.places import Places
from attune.data.corpora.schema import build_dataset, language_code
from attune.data.corpora.split_names import SPLIT_NAMES, describe_names, find_split
from attune.data.corpora.tables import SUFFIXES, read_rows
from attune.data.corpora.timed_text import Cue, read_subtitles, read_text, read_textgrid
from attune.errors import InputError
from attune.text.normalise import spells_without_spaces

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")
TEXT = (".textgrid", ".srt", ".vtt", ".txt", ".lab")  # the first that is there counts
LONGEST_GAP_S = 2.0  # utterances further apart are not merged: nobody has written down what is between them


class FolderCorpus:
    """Splits by sub-folders train (or training), validation (or valid, val, dev) and test where there is a train, or by
    a metadata file's column `split`; what is missing of them, or all, is divided out by seed: by recording, so that
    none stands in two splits.

    Args:
        root: the folder; with a metadata file directly in it, that file counts and sub-folders do not.
        language: Whisper's code or name; a metadata file may have a column instead.
        merge_s: neighbouring cues of one speaker are joined to utterances of up to so many seconds, in [0, 30]; 0
            leaves each by itself. Each keeps its own times, in `segments`.
        tiers: of a TextGrid, those that hold what is said; where there are several, each is a speaker.
        shares: of train, validation and test, where they are divided, measured in bytes of audio.
        split_seed: of the division.
        columns: our name -> the metadata file's name for it.
        audio_folders: where recordings and texts may lie that are links, beside the root.
    """

    def __init__(
        self,
        root: str,
        language: str | None = None,
        merge_s: float = 0.0,
        tiers: Sequence[str] = (),
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        columns: Mapping[str, str] | None = None,
        audio_folders: Sequence[str] = (),
    ):
        if not 0 <= merge_s <= WINDOW_S:
            raise InputError(f"data.merge_s={merge_s:g}: accepted are 0 to {WINDOW_S:g} s, Whisper's window.")
        self.root = Path(root)
        self.language = language_code(language) if language else None
        self.merge_s = merge_s
        self.tiers = list(tiers)
        self.shares = check_shares(shares)
        self.split_seed = split_seed
        self.columns = dict(columns or {})
        self.audio_folders = list(audio_folders)

    def splits(self) -> dict[str, Dataset]:
        if not self.root.is_dir():
            raise InputError(f"data.root: there is no folder {self.root}.")
        parts = self._find_parts()
        rows = {split: part.rows(lambda name: True) for split, part in parts.items()}
        divided = [split for split in SPLITS if split not in parts or split == "train"]
        if len(divided) > 1 or not parts:
            pool = parts.get("train") or self._open(self.root)
            shares = {split: self.shares[split] for split in divided}
            places = divide(pool.sizes(), shares, self.split_seed, f"recordings of data.root={self.root}")
            rows |= {split: pool.rows(lambda name, split=split: places[name] == split) for split in divided}
        return {split: build_dataset(rows[split]) for split in SPLITS}

    def _find_parts(self) -> dict[str, "Recordings"]:
        """Split -> what was put into it; {} where nobody has said."""
        metadata = find_metadata(self.root)
        if metadata is None:
            return {split: self._open(folder, split) for split, folder in find_subfolders(self.root).items()}
        named = self._list(metadata).find_splits()
        if named and "train" not in named:
            raise InputError(
                f"data.root: {metadata} names the splits {', '.join(sorted(named))}, and not train. Name it, or take "
                "the column away to have the recordings divided by data.shares."
            )
        return {split: self._list(metadata, split) for split in SPLITS if split in named}

    def _list(self, metadata: Path, split: str | None = None) -> "Listed":
        return Listed(metadata, self.language, self.columns, [str(self.root), *self.audio_folders], split)

    def _open(self, folder: Path, split: str | None = None) -> "Recordings":
        metadata = find_metadata(folder)
        if metadata:
            listed = self._list(metadata)
            if others := listed.find_splits() - {split}:
                raise InputError(
                    f"data.root: {metadata} names the split {', '.join(sorted(others))} and lies in {folder.name}/. "
                    f"Put the file into {self.root} itself, or take its column 'split' away."
                )
            return listed
        if self.language is None:
            raise InputError("data.language: a folder does not say which language is spoken. Give data.language=CODE.")
        places = Places(self.root, self.audio_folders)
        return Beside(folder, self.root, self.language, self.merge_s, self.tiers, places)


class Recordings(Protocol):
    """Recordings under names of their own."""

    def sizes(self) -> Mapping[str, float]:
        """Of each recording, in one unit."""
        ...

    def rows(self, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
        """Those of the schema, of the recordings whose names are wanted."""
        ...


class Listed:
    """The recordings of a metadata file, or of one split in it; a size is a number of utterances."""

    def __init__(
        self,
        path: Path,
        language: str | None,
        columns: Mapping[str, str],
        audio_folders: Sequence[str],
        split: str | None = None,
    ):
        self.path, self.split = path, split
        self.manifest = ManifestCorpus(
            str(path), str(path), language=language, columns=columns, audio_folders=audio_folders
        )

    def sizes(self) -> Mapping[str, float]:
        return Counter(str(row["audio"]["path"]) for row in self._read())

    def rows(self, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
        return (row for row in self._read() if wanted(str(row["audio"]["path"])))

    def find_splits(self) -> set[str]:
        """Those that the column `split` names; none where there is no such column, or it is empty.

        Raises:
            InputError: a row names none where others do, or what is no split.
        """
        lines = {self._find_split(raw): line for line, raw in read_rows(self.path, "data.root")}
        if None in lines and len(lines) > 1:
            raise InputError(
                f"{self.path}, line {lines[None]} names no split, and other rows do. Each row needs one, or none does."
            )
        for name, line in lines.items():
            if name not in (None, *SPLITS):
                raise InputError(f"{self.path}, line {line}: split is {name!r}. Accepted: {describe_names()}.")
        return {name for name in lines if name}

    def _find_split(self, raw: Mapping[str, Any]) -> str | None:
        name = str(raw.get(self.manifest.columns.get("split", "split")) or "").strip()
        return find_split(name) or name or None

    def _read(self) -> Iterator[dict[str, Any]]:
        for line, raw in read_rows(self.path, "data.root"):
            if self.split and self._find_split(raw) != self.split:
                continue
            named = {"id": f"{self.path.parent.name}-{line}", **raw}
            if "file_name" in raw and "audio" not in self.manifest.columns:  # Hugging Face's name for it
                named = {"audio": named.pop("file_name"), **named}
            yield self.manifest.row(named, self.path, line)


class Beside:
    """Recordings with text beside them; a size is a number of bytes."""

    def __init__(self, folder: Path, root: Path, language: str, merge_s: float, tiers: Sequence[str], places: Places):
        self.root, self.language, self.merge_s, self.tiers = root, language, merge_s, tiers
        self.places = places
        self.found = find_recordings(folder)

    def sizes(self) -> Mapping[str, float]:
        return {name: sum(audio.stat().st_size for audio in audios) for name, (audios, _) in self.found.items()}

    def rows(self, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
        for name, (audios, text) in self.found.items():
            for audio in audios if wanted(name) else []:
                yield from self._cut(audio, text)

    def _cut(self, audio: Path, text: Path) -> Iterator[dict[str, Any]]:
        id = str(audio.relative_to(self.root))
        self.places.check(text, f"data.root={self.root}")
        path = self.places.check(audio, f"data.root={self.root}")
        row = {"id": id, "audio": {"path": path, "bytes": None}, "language": self.language}
        kind = text.suffix.lower()
        if kind in (".txt", ".lab"):
            yield {**row, "text": " ".join(read_text(text).split()), "place": str(text)}
            return
        cues = read_textgrid(text, self.tiers) if kind == ".textgrid" else read_subtitles(text)
        for number, group in enumerate(merge(cues, self.merge_s)):
            yield {**row, **join(group, self.language), "id": f"{id}-{number:04d}"}


def merge(cues: Sequence[Cue], merge_s: float) -> Iterator[list[Cue]]:
    """Neighbours of one speaker, as many as fit into `merge_s` seconds; at least one."""
    group: list[Cue] = []
    for cue in sorted(cues, key=lambda cue: (cue.speaker or "", cue.start_s)):
        near = group and cue.speaker == group[0].speaker and cue.start_s - group[-1].end_s <= LONGEST_GAP_S
        if group and not (near and cue.end_s - group[0].start_s <= merge_s):
            yield group
            group = []
        group.append(cue)
    if group:
        yield group


def join(group: Sequence[Cue], language: str) -> dict[str, Any]:
    """Cues -> what one row says of them. Times of segments count from the row's start and never go back."""
    start_s = group[0].start_s
    segments, spoken_s = [], 0.0
    for cue in group:
        begin_s = max(cue.start_s - start_s, spoken_s)
        spoken_s = max(cue.end_s - start_s, begin_s)
        segments.append({"start_s": begin_s, "end_s": spoken_s, "text": cue.text})
    return {
        "text": ("" if spells_without_spaces(language) else " ").join(cue.text for cue in group),
        "speaker": group[0].speaker,
        "start_s": start_s,
        "end_s": start_s + spoken_s,
        "segments": segments,
        "place": group[0].place,
    }


def find_metadata(folder: Path) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"metadata{suffix}").is_file()), None)


def find_subfolders(root: Path) -> dict[str, Path]:
    """Split -> its folder; none, unless there is one to train on.

    Raises:
        InputError: there is a folder to test on, and none to train on.
    """
    found = {
        split: root / name for split, names in SPLIT_NAMES.items() for name in reversed(names) if (root / name).is_dir()
    }
    if found and "train" not in found:
        raise InputError(
            f"data.root={root}: there is {', '.join(path.name + '/' for path in found.values())} in it, but no train/. "
            "Add it, or give the folder another name to have the recordings divided by data.shares."
        )
    return found


def find_recordings(folder: Path) -> dict[str, tuple[list[Path], Path]]:
    """Name without suffix -> its recordings (one, or the same in several formats) and its text, in order of names.

    Raises:
        InputError: there is no recording, or one has no text beside it.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            files[str(path.with_suffix(""))][path.suffix.lower()] = path
    found: dict[str, tuple[list[Path], Path]] = {}
    silent = []
    for name in sorted(files):
        audios = [files[name][suffix] for suffix in AUDIO if suffix in files[name]]
        texts = [files[name][suffix] for suffix in TEXT if suffix in files[name]]
        if audios and texts:
            found[name] = (audios, texts[0])
        silent += audios if not texts else []
    if silent or not found:
        kinds = Counter(suffix or "no suffix" for kinds in files.values() for suffix in kinds)
        wrong = "there is no recording with text beside it"
        if silent:
            some = ", ".join(path.name for path in silent[:5])
            wrong = f"{len(silent)} recordings have no text beside them: {some}{', ...' if len(silent) > 5 else ''}"
        raise InputError(
            f"data.root: in {folder} {wrong}. It holds: "
            f"{', '.join(f'{count} {kind}' for kind, count in kinds.most_common(8)) or 'nothing'}. Accepted: audio in "
            f"{', '.join(AUDIO)}, with text of the same name in {', '.join(TEXT)}, or a metadata.csv; an utterance "
            "without speech has an empty text."
        )
    return found
