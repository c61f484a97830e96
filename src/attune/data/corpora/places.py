"""Which files a corpus may name: those below its own folder, and below others that its user allows.

A corpus comes from somebody else, and what it names is decoded, shown in pages and sent to W&B. A path of `../../`, an
absolute one or a link must not make it any recording of this machine.
"""

import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from attune.errors import InputError


class Places:
    """The folders from which a corpus may name files.

    Args:
        root: its own.
        more: data.audio_folders; "/" allows every file.
    """

    def __init__(self, root: str | Path, more: Sequence[str] = ()):
        self.root = str(root)
        self.allowed = [os.path.join(os.path.realpath(folder), "") for folder in (root, *more)]
        self._real: dict[str, str] = {}  # a corpus has few folders, and many files in each
        self.looked_for, self.missing = 0, list[str]()

    def check(self, path: str | Path, place: str) -> str:
        """The path, if it may be read; links are followed.

        Raises:
            InputError: it lies elsewhere; with the row's place.
        """
        self._check(str(path), os.path.islink(path), place)
        return str(path)

    def find(self, name: str, place: str) -> str:
        """The path of a file that may be read; relative names are of the root. One that is not there is noted in
        `missing`: the audit sets its row aside.

        Raises:
            InputError: it lies elsewhere; with the row's place.
        """
        path = os.path.join(self.root, name)
        try:
            kind = os.lstat(path).st_mode  # of a hundred thousand rows, one look at each
        except (OSError, ValueError):
            kind = 0
        self._check(path, stat.S_ISLNK(kind), place)
        self.looked_for += 1
        if not stat.S_ISREG(kind) and not os.path.isfile(path):
            self.missing.append(f"{place}: there is no audio file {path}")
        return path

    def _check(self, path: str, is_link: bool, place: str) -> None:
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        is_plain = not is_link and name not in ("", ".", "..")
        real = os.path.join(self._real[folder], name) if is_plain else os.path.realpath(path)
        if not real.startswith(tuple(self.allowed)):
            raise InputError(
                f"{place}: {path} lies {'at ' + real + ', ' if real != os.path.abspath(path) else ''}outside "
                f"{self.root}. A corpus may name files below its own folder, and below those of data.audio_folders: "
                f"data.audio_folders=[{os.path.dirname(real)}], or [/] for every file."
            )


def find_audio_folders(manifests: Iterable[Path]) -> list[str]:
    """What data.audio_folders must hold for JSONL manifests that were written here; [] where they name nothing outside
    their own folder."""
    folders = set()
    for path in manifests:
        for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
            audio = json.loads(line).get("audio") if line.strip() else None
            if isinstance(audio, str) and os.path.isabs(audio):
                folders.add(os.path.dirname(audio))
    common = os.path.commonpath(folders) if folders else ""
    return [common] if common.strip(os.sep) else sorted(folders)
