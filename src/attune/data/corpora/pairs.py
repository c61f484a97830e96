"""Preferences: pairs of transcripts of one recording, of which one is better."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.schema import PAIRED
from attune.errors import InputError

SIDES = ("chosen", "rejected")


class PairsCorpus(ManifestCorpus):
    """Manifests whose rows have `chosen` and `rejected` in the place of `text`.

    {"audio": "a.wav", "chosen": "Seven blue boats.", "rejected": "Seven blue votes.", "language": "en"}

    The chosen transcript is the row's text: it is what WER is counted against, and what an anchor holds the model to.
    A row in which both are null is no preference (a tie, both bad) and is left out. A row with `text` alone is an
    utterance without a pair; validation, test and retention may be such manifests. All else is as in a manifest.
    """

    features = PAIRED

    def row(self, raw: Mapping[str, Any], path: Path, line: int) -> dict[str, Any]:
        """One row of a file -> one of the schema, with `rejected`.

        Raises:
            InputError: one side is missing, or both are the same; with the row's place.
        """
        if not self._is_pair(raw):
            return {**super().row(raw, path, line), "rejected": None}
        place = f"{path}, line {line}"
        for side in SIDES:
            if not isinstance(raw.get(side), str):
                raise InputError(
                    f"{place}: {side!r} is {raw.get(side)!r}. A pair has two texts, {' and '.join(SIDES)}; where "
                    "neither is better, both are null."
                )
        chosen, rejected = (raw[side].strip() for side in SIDES)
        if chosen == rejected:
            raise InputError(f"{place}: chosen and rejected are the same, {chosen!r}, so that neither is better.")
        text = self.columns.get("text", "text")
        return {**super().row({**raw, text: chosen}, path, line), "rejected": rejected}

    def _takes(self, split: str, raw: Mapping[str, Any]) -> bool:
        is_tie = self._is_pair(raw) and all(raw.get(side) is None for side in SIDES)
        return super()._takes(split, raw) and not is_tie

    def _is_pair(self, raw: Mapping[str, Any]) -> bool:
        """Whether a row names a chosen or a rejected transcript. Programs that write every column of a table write
        both as empty where there is a text alone."""
        is_alone = raw.get(self.columns.get("text", "text")) and all(raw.get(side) in (None, "") for side in SIDES)
        return any(side in raw for side in SIDES) and not is_alone
