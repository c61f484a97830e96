"""Every `python train.py ...` and `attune ...` that README, docs and notebooks show is one that would be accepted."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from attune.use.cli import make_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
COMMAND = re.compile(r"(python train\.py|attune [a-z])")
PLUGINS = {"hydra/launcher=joblib": "hydra_joblib_launcher", "hydra/sweeper=optuna": "hydra_optuna_sweeper"}
PLACEHOLDER = re.compile(r"[A-Z]+|\w+=NAME")  # what stands for words of the reader's own: WORDS, finetune=NAME


def find_commands(text: str) -> Iterator[str]:
    """Commands in fenced blocks, one a line, and in `code` that begins with one."""
    fence = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for block in fence.findall(text):
        yield from find_in_shell(block)
    for span in re.findall(r"`([^`]+)`", fence.sub("", text)):
        if COMMAND.match(span) and "|" not in span:
            yield " ".join(span.split())


def find_in_shell(block: str) -> Iterator[str]:
    """Lines that call one of the two, with continued lines joined."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"&& | > |; | \| ", line):
            if COMMAND.match(part.strip()):
                yield part.strip()


def find_all() -> list[tuple[str, str]]:
    found = [(page.name, command) for page in PAGES for command in find_commands(page.read_text("utf-8"))]
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                commands = find_commands(source)
            else:
                commands = find_in_shell(source) if source.startswith("%%bash") else iter(())
            found += [(path.name, command) for command in commands]
    return list({tuple(split(command)): (page, command) for page, command in reversed(found)}.values())[::-1]


def split(command: str) -> list[str]:
    """The words behind `python train.py` or `attune`, without the comment."""
    words = shlex.split(command, comments=True)
    return words[2:] if words[0] == "python" else words[1:]


FOUND = find_all()


def take_lowest(word: Override) -> str:
    """One value of the interval that a search draws from; other words as they are."""
    interval = word.value()
    return f"{word.get_key_element()}={interval.start}" if isinstance(interval, IntervalSweep) else str(word.input_line)


def compose_all(words: list[str]) -> None:
    """Compose what the words ask for: each job of a sweep by itself."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([take_lowest(word) for word in parser.parse_overrides(words)])
        jobs = BasicSweeper.split_arguments(overrides, None)[0]
        # Seeds differ in nothing else, and `name` follows what only Hydra's own main() knows.
        unseeded = dict.fromkeys(tuple(word for word in job if not word.startswith(("seed=", "name="))) for job in jobs)
        for job in unseeded:
            assert compose("train", [*job, "name=test"], return_hydra_config=True).name == "test"


def test_there_are_commands() -> None:
    pages = {name for name, _ in FOUND}
    assert len(FOUND) >= 60 and {"README.md", "types.md", "how_to.md", "01_quickstart.ipynb"} <= pages


@pytest.mark.parametrize(("page", "command"), FOUND, ids=[f"{page}: {command[:60]}" for page, command in FOUND])
def test_it_is_accepted(page: str, command: str) -> None:
    words = split(command)
    for word, plugin in PLUGINS.items():
        if word in words:
            pytest.importorskip(f"hydra_plugins.{plugin}", reason="pip install -e '.[sweep]'")
    if command.startswith("python"):
        words = [word for word in words if word not in ("-m", "--multirun")]
        compose_all([word for word in words if not PLACEHOLDER.fullmatch(word)])
        return
    if words[0] == "plan":
        compose_all([word for word in words[1:] if not PLACEHOLDER.fullmatch(word)])
    if len(words) == 1 and words != ["plan"]:
        words = [*words, "--help"]  # `attune report` names the command and no more
    try:
        make_parser().parse_args(words)
    except SystemExit as end:
        assert end.code == 0, f"{page}: {command}"


def test_a_wrong_command_would_be_noticed() -> None:
    text = "`python train.py finetune=lorra`\n```\nattune transcribe\n  attune pairs\nls\n```\n"
    assert list(find_commands(text)) == ["attune transcribe", "attune pairs", "python train.py finetune=lorra"]
    with pytest.raises(Exception, match="lorra"):
        compose_all(["finetune=lorra"])
    with pytest.raises(Exception, match="seeed"):  # a key that there is not
        compose_all(["seeed=1,2"])
