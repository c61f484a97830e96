"""predictions/*.csv: every utterance of a panel, before and after."""

import csv
import io
import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from attune.errors import InputError
from attune.score.metrics import Prediction, count_word_errors
from attune.text.cells import defuse, restore
from attune.text.normalise import normalise
from attune.train.files import write_atomically


@dataclass(frozen=True)
class PredictionRow:
    """One utterance before and after fine-tuning. Texts are raw; words and errors are counted on normalised text."""

    id: str
    speaker: str | None
    language: str | None
    duration_s: float
    reference: str
    before: str
    after: str
    words: int
    errors_before: int
    errors_after: int
    recording: str | None = None
    accent: str | None = None


def write_predictions(folder: Path, panel: str, before: list[Prediction], after: list[Prediction]) -> Path:
    """Write predictions/PANEL.csv: one row an utterance, before beside after, in the order of `after`.

    UTF-8 with a byte order mark, without which Excel garbles every script but Latin. A text that a spreadsheet would
    run as a formula ("=1+1", "-5", "@home") gets a leading apostrophe; `read_predictions` takes it off again. A
    repeated id counts once, as in `score_panel`.

    Raises:
        ValueError: `before` and `after` are not the same utterances.
    """
    # Reversed, so that the first of each id is the one that stays.
    earlier, later = ({each.id: each for each in reversed(moment)} for moment in (before, after))
    if earlier.keys() != later.keys():
        odd = sorted(earlier.keys() ^ later.keys())
        raise ValueError(f"panel {panel}: before and after must be the same utterances; only one of them has {odd[:5]}")
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow(column.name for column in fields(PredictionRow))
    for identifier in dict.fromkeys(prediction.id for prediction in after):
        row = _to_row(earlier[identifier], later[identifier])
        table.writerow(defuse(cell) if isinstance(cell, str) else cell for cell in astuple(row))
    return write_atomically(predictions_path(folder, panel), "\ufeff" + buffer.getvalue())


def read_predictions(path: Path) -> list[PredictionRow]:
    """Read a predictions/*.csv; every text comes back exactly as the model or the corpus gave it.

    Raises:
        InputError: the file is missing, or is not a table with these columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [_read_row(cells) for cells in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        columns = ", ".join(column.name for column in fields(PredictionRow))
        raise InputError(
            f"{path} cannot be read as predictions: {error!r}. Accepted: UTF-8 CSV with the columns {columns}."
        ) from None


def predictions_path(folder: Path, panel: str) -> Path:
    """Where a panel's predictions lie in a run folder: `retention/us` -> predictions/retention-us.csv."""
    return folder / "predictions" / (re.sub(r"[^\w@.-]", "-", panel) + ".csv")


def _to_row(before: Prediction, after: Prediction) -> PredictionRow:
    reference = normalise(after.reference, after.language)
    earlier = count_word_errors(reference, normalise(before.hypothesis, after.language))
    later = count_word_errors(reference, normalise(after.hypothesis, after.language))
    return PredictionRow(
        id=after.id,
        speaker=after.speaker,
        language=after.language,
        duration_s=round(after.duration_s, 3),
        reference=after.reference,
        before=before.hypothesis,
        after=after.hypothesis,
        words=later.words,
        errors_before=earlier.total,
        errors_after=later.total,
        recording=after.recording,
        accent=after.accent,
    )


def _read_row(cells: dict[str, str]) -> PredictionRow:
    return PredictionRow(
        id=restore(cells["id"]),
        speaker=restore(cells["speaker"]) or None,
        language=restore(cells["language"]) or None,
        duration_s=float(cells["duration_s"]),
        reference=restore(cells["reference"]),
        before=restore(cells["before"]),
        after=restore(cells["after"]),
        words=int(cells["words"]),
        errors_before=int(cells["errors_before"]),
        errors_after=int(cells["errors_after"]),
        recording=restore(cells.get("recording") or "") or None,  # tables from before they were written
        accent=restore(cells.get("accent") or "") or None,
    )
