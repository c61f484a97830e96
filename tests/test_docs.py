"""The documentation's site builds without a warning, and tells of every option that it should."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("page", "group", "left_out"),
    [
        ("guides/types.md", "finetune", set()),
        ("guides/objectives.md", "objective", set()),
        ("how_to.md", "ablation", set()),
        ("guides/adaptations.md", "data", {"settings", "general", "everyday", "pairs", "librispeech", "folder", "hub"}),
    ],
)
def test_a_guide_names_every_option_of_its_group(page: str, group: str, left_out: set[str]) -> None:
    text = (DOCS / page).read_text("utf-8")
    options = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")} - left_out
    heading = "### {}\n" if group == "finetune" else "{}"
    assert not [option for option in sorted(options) if heading.format(option) not in text]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(DOCS / "site" / "mkdocs.yml")]
    built = subprocess.run([*command, "-d", str(tmp_path)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "reference" / "index.html").read_text("utf-8")
    assert "load_waveform" in page and "bootstrap" in page  # the docstrings are there
    pages = sorted(tmp_path.rglob("index.html"))
    assert len(pages) == len(list(DOCS.rglob("*.md")))
    for path in pages:
        html = path.read_text("utf-8")
        assert 'src="http' not in html and '<link rel="stylesheet" href="http' not in html  # asks nobody
