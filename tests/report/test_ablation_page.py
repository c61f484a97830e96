"""ablation.html: whole, escaped, and with one script that its policy names by hash."""

import base64
import hashlib
import re
from itertools import combinations
from pathlib import Path

import pytest
from hostile import HOSTILE
from matplotlib.text import Annotation, Text
from test_ablation import make_record
from test_run_page import Elements

from attune.report.ablation_page import write_ablation_page
from attune.report.compare import make_rows
from attune.report.differences import Differences, add_differences
from attune.report.figures import save_figures
from attune.report.tables import HEADINGS
from attune.report.trade_offs import find_front, plot_trade_offs


@pytest.fixture
def page(tmp_path: Path) -> str:
    records = [make_record("full", 1, 0.2), make_record("full", 2, 0.24), make_record("lora", 1, 0.3)]
    records += [make_record("lora", 2, None)]
    records[-1].error = HOSTILE
    records[2].config["keep"] = HOSTILE
    runs = [(tmp_path / f"0{number} a:b", record) for number, record in enumerate(records)]
    for folder, _ in runs[:2]:
        folder.mkdir()
        (folder / "report.html").write_text("")
    rows = make_rows(runs)
    figures = save_figures(tmp_path, {"trade_offs": plot_trade_offs(rows)}, kinds=("svg",))
    found = add_differences(rows, {})
    return write_ablation_page(tmp_path, found, [HOSTILE], figures).read_text("utf-8")


def test_the_page_is_whole_and_asks_nobody(page: str) -> None:
    elements = Elements(page)
    assert elements.open == []
    sources = [image["src"] for image in elements.named("img")]
    assert sources and all(str(source).startswith("data:image/svg+xml;base64,") for source in sources)
    assert [link["href"] for link in elements.named("a")] == ["00%20a%3Ab/report.html", "01%20a%3Ab/report.html"]
    assert not re.search(r"https?://|url\(|@import", page)


def test_the_policy_lets_the_one_script_run_and_no_other(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert len(Elements(page).named("script")) == 1
    assert not [name for _, attributes in Elements(page).tags for name in attributes if name.startswith("on")]


def test_nothing_that_a_run_says_becomes_markup(page: str) -> None:
    assert HOSTILE not in page and "&lt;script&gt;alert" in page
    assert not Elements(page).named("b")


def test_rows_can_be_sorted_and_told_apart(page: str) -> None:
    elements = Elements(page)
    kinds = [attributes["data-kind"] for attributes in elements.named("tr") if "data-kind" in attributes]
    assert kinds == ["setting", "run", "run", "setting", "unfinished"]
    keys = [attributes["data-key"] for attributes in elements.named("td")]
    shown = [name for name in HEADINGS if f">{name}</button>" in page]
    assert "retention % before" in shown and "to untouched" not in shown and "kJ" not in shown  # measured nowhere
    assert len(keys) == len(elements.named("th")) * len(kinds)
    assert keys[4] == str((0.2 + 0.24) / 2)  # a number in full
    assert keys[-1] == ""  # the run that failed has no memory to tell of, and stands last
    buttons = elements.named("button")
    assert len(buttons) == len(elements.named("th")) and all(button["type"] == "button" for button in buttons)
    assert [box["data-kind"] for box in elements.named("input") if "data-kind" in box] == [
        "setting",
        "run",
        "unfinished",
    ]


def test_an_empty_ablation_has_a_page(tmp_path: Path) -> None:
    page = write_ablation_page(tmp_path, Differences([], [], []), [], []).read_text("utf-8")
    assert Elements(page).open == []


def test_names_in_a_figure_cover_neither_points_nor_each_other() -> None:
    records = [make_record("lora", 1, 0.3 + number / 1000, rank=2**number) for number in range(8)]
    for number, record in enumerate(records):
        record.parameters["trainable"] = 250_000 + 9_000 * number  # near each other, in WER and in size
    figure = plot_trade_offs(make_rows([(Path(str(number)), record) for number, record in enumerate(records)]))
    assert figure is not None
    axes = figure.axes[0]
    names = [text for text in axes.texts if isinstance(text, Annotation)]
    assert len(names) == 8
    boxes = [Text.get_window_extent(name) for name in names]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.contains(*axes.transData.transform(name.xy)) for box in boxes for name in names)
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    assert all("mathdefault" not in tick.get_text() for tick in axes.get_xticklabels())


def test_the_front_holds_what_nothing_is_better_than() -> None:
    points = [(3.0, 10.0, "a"), (1.0, 20.0, "b"), (2.0, 25.0, "c"), (3.0, 9.0, "d"), (4.0, 9.0, "e")]
    assert find_front(points) == [(1.0, 20.0, "b"), (3.0, 9.0, "d")]
    assert find_front([]) == []
