"""ablation.html: an ablation on one page, to sort and to filter. It loads nothing; its only links lead to the runs."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from attune.report.compare import Row
from attune.report.differences import Differences, PanelRow
from attune.report.record import write_atomically
from attune.report.run_page import to_data_uri
from attune.report.tables import HEADINGS, NOTE, PANEL_HEADINGS, list_faults, to_cells, to_panel_cells

CAPTIONS = {
    "ablation": "WER on the target with its 95 % interval, and on what should be kept. Hollow: the untouched model.",
    "forest": "Differences in WER with 95 % intervals. Hollow and grey: the interval holds 0, so it may be chance.",
    "trade_offs": "WER against what it costs. On the Pareto front, nothing is both cheaper and better.",
    "groups": "WER by group of utterances, of the first seed of each setting.",
    "curves": "WER on the validation set while training, mean over the seeds.",
    "shots": "WER over the number of training utterances.",
}
WIDE = {"ablation", "forest"}  # two panels beside each other: they take the whole width


@dataclass(frozen=True)
class Cell:
    """What is shown, and by what it is sorted: a number, or the text itself; "" stands behind everything."""

    text: str
    key: str


@dataclass(frozen=True)
class Line:
    """A row of the table. `link` leads to the run's report, from the page's folder; kind: setting, run, unfinished."""

    cells: list[Cell]
    kind: str
    link: str | None


def write_ablation_page(output: Path, found: Differences, notes: Sequence[str], figures: Sequence[Path]) -> Path:
    """Write ablation.html into `output`.

    Args:
        figures: SVG files, shown in this order.
    """
    script = files("attune").joinpath("assets/ablation_page.js").read_text("utf-8")
    template = Environment(
        loader=PackageLoader("attune", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("ablation_page.html.j2")
    lines = [_make_line(row, output) for row in found.rows]
    # What was measured nowhere (energy, on most machines) is no column.
    known = [place for place in range(len(HEADINGS)) if not lines or any(line.cells[place].key for line in lines)]
    panels = [[*map(Cell, to_panel_cells(row), _panel_keys(row))] for row in found.panels]
    page = template.render(
        headings=[HEADINGS[place] for place in known],
        lines=[replace(line, cells=[line.cells[place] for place in known]) for line in lines],
        panel_headings=PANEL_HEADINGS,
        panels=panels,
        notes=[NOTE, *notes],
        faults=list_faults(found.rows),
        figures=[
            (CAPTIONS[path.stem], to_data_uri("image/svg+xml", path.read_bytes()), path.stem in WIDE)
            for path in figures
        ],
        script=script,
        # The policy names the script by its hash: whatever else a page holds, nothing else runs.
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
    )
    return write_atomically(output / "ablation.html", page)


def _make_line(row: Row, output: Path) -> Line:
    kind = "unfinished" if row.status != "finished" else "setting" if row.is_setting else "run"
    cells = [Cell(text, _spell(key)) for text, key in zip(to_cells(row), _keys(row), strict=True)]
    page = Path(row.folder) / "report.html"
    return Line(cells, kind, _link(page, output) if row.folder and page.is_file() else None)


def _link(page: Path, output: Path) -> str | None:
    """A relative address: the page still finds its runs where both were moved together."""
    try:
        return quote(Path(os.path.relpath(page, output)).as_posix())  # a colon too: no folder's name is a scheme
    except ValueError:  # on another drive
        return None


def _keys(row: Row) -> list[float | str | None]:
    """What each of HEADINGS is sorted by."""
    return [
        row.setting, row.seed, row.trainable, row.wer_before, row.wer_after, row.to_untouched, row.to_untouched_p_holm,
        row.to_first, row.to_first_p_holm, row.cer_after, row.substitutions, row.retention_before, row.retention_after,
        row.seconds, row.peak_memory_gb, row.energy_kj,
    ]  # fmt: skip


def _panel_keys(row: PanelRow) -> list[str]:
    keys = [row.setting, row.panel, row.words, row.wer_before, row.wer_after, row.difference, row.p_holm]
    return [_spell(key) for key in keys]


def _spell(key: float | str | None) -> str:
    return "" if key is None else str(key)
