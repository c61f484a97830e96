"""Every YAML composes, and binds the real signature of what it describes."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from attune.data.corpora.hub import HubCorpus
from attune.data.corpora.manifest import OPTIONAL_COLUMNS, ManifestCorpus
from attune.data.corpora.mixture import MixtureCorpus
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.train.loggers import make_loggers
from attune.train.module import WhisperModule
from attune.use.config import build_corpus

CONFIGS = Path(__file__).parents[1] / "configs"
FRAGMENTS = {"data/general", "data/settings"}  # what other options of the group include
OPTIONS = sorted(
    name for path in CONFIGS.glob("*/*.yaml") if (name := f"{path.parent.name}/{path.stem}") not in FRAGMENTS
)
# What the run adds to a node before it calls its target.
ADDED = {"trainer": {"callbacks": [], "loggers": [], "folder": ""}}
# What only the user knows.
USERS = {
    "data/manifest": ["data.train=a.jsonl", "data.validation=b.jsonl"],
    "data/pairs": ["data.train=a.jsonl", "data.validation=b.jsonl"],
    "data/common_voice": ["data.root=cv"],
    "data/librispeech": ["data.root=LibriSpeech"],
    "data/folder": ["data.root=talks"],
    "data/hub": ["data.path=owner/name"],
    "data/fleurs": ["data.locale=ar_eg", "data.language=ar"],
    "vocabulary/file": ["vocabulary.file=terms.txt"],
    "experiment/one_speaker": ["data.train=a.jsonl", "data.validation=b.jsonl"],
}


def compose_with(option: str) -> dict[str, Any]:
    group, name = option.split("/")
    words = [f"{'+' if group == 'experiment' else ''}{group}={name}".removeprefix("+")]
    words += USERS.get(option, [])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [*words, "name=test"])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def find_targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from find_targets(value, f"{path}.{key}".strip("."))


def test_there_are_options() -> None:
    assert len(OPTIONS) >= 20


@pytest.mark.parametrize("option", OPTIONS)
def test_composes_and_binds(option: str) -> None:
    config = compose_with(option)
    targets = dict(find_targets(config))
    assert {"augment", "context", "data.corpus", "finetune", "objective", "trainer"} <= targets.keys()
    for path, node in targets.items():
        signature = inspect.signature(get_object(node["_target_"]))
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.parameters.values()), path
        arguments = {key: value for key, value in node.items() if key != "_target_"} | ADDED.get(path, {})
        signature.bind(**arguments)
        nested = [inner for key, value in node.items() for inner, _ in find_targets(value, key)]
        assert not nested, f"{path}: _target_ stands on leaves only, not in {nested}"


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith(("optimizer/", "logger/"))])
def test_scalars_without_a_target_bind_too(option: str) -> None:
    config = compose_with(option)
    inspect.signature(WhisperModule).bind(None, None, None, steps=1, **config["optimizer"])
    inspect.signature(make_loggers).bind(CONFIGS, "name", {}, **config["logger"])


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("penalty/")])
def test_a_penalty_is_found_by_its_group_and_none_is_the_default(option: str) -> None:
    penalty = compose_with(option)["penalty"]
    assert (penalty is None) == (option == "penalty/none")
    assert compose_with("objective/cross_entropy")["penalty"] is None
    inspect.signature(WhisperModule).bind(None, None, None, steps=1, penalty=penalty)


def test_an_experiment_says_only_what_differs() -> None:
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        text = path.read_text()
        assert text.startswith("# @package _global_")
        assert "_target_" not in text
        assert set(yaml.safe_load(text)) <= {"defaults", "name", "keep", "seed", *(p.name for p in CONFIGS.iterdir())}


def test_language_codes_are_text() -> None:
    """Unquoted, YAML takes Norwegian for False."""
    for path in CONFIGS.rglob("*.yaml"):
        for _, node in find_targets({"root": yaml.safe_load(path.read_text())}):
            assert isinstance(node.get("language", ""), str | None)


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.startswith(("data/", "model/", "experiment/"))]
)
def test_scalars_that_a_run_reads_by_name_are_known(option: str) -> None:
    """A key that nobody reads would be a setting without effect."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        group, name = option.split("/")
        words = USERS.get(option, [])
        config = compose("train", [f"{group}={name}", *words, "name=test"])
    plain: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]  # interpolations as written
    written = str(plain["data"])  # relative to where it stands, so that an option can be a part of a mixture
    referred = {key for key in plain["data"] if f"${{data.{key}}}" in written or f"${{..{key}}}" in written}
    referred |= {"parts"} if option == "data/mixture" else set()  # use/config.py builds them
    known = inspect.signature(SpeechDataModule).parameters.keys() - {"tokens", "context", "seed"}
    assert plain["data"].keys() <= known | referred
    assert plain["model"].keys() == {"name_or_path", "scratch"}


def test_an_unknown_argument_does_not_bind() -> None:
    config = compose_with("finetune/full")
    target = get_object(config["finetune"]["_target_"])
    with pytest.raises(TypeError, match="unexpected keyword"):
        inspect.signature(target).bind(rank=3)


def test_options_of_data_are_parts_of_a_mixture() -> None:
    """Each with its own settings, and their targets on leaves still."""
    parts = {"a": "manifest", "b": "fleurs", "c": "accent"}
    words = [f"+data@data.parts.{name}={option}" for name, option in parts.items()]
    words += ["data.parts.a.train=a.jsonl", "data.parts.a.validation=b.jsonl"]
    words += ["data.parts.b.locale=ar_eg", "data.parts.b.language=ar", "+data.weights.c=0"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["data=mixture", *words, "name=test"])
    corpus = build_corpus(config.data)
    assert isinstance(corpus, MixtureCorpus)
    manifest, fleurs, accent = (corpus.parts[name] for name in parts)
    assert isinstance(manifest, ManifestCorpus) and manifest.files["train"] == Path("a.jsonl")
    assert isinstance(fleurs, HubCorpus) and fleurs.files == {
        split: f"ar_eg/{split}/*.parquet" for split in ("train", "validation", "test")
    }
    assert isinstance(accent, SyntheticCorpus)
    assert corpus.weights == {"a": 1.0, "b": 1.0, "c": 0.0}
    for path, node in find_targets(OmegaConf.to_container(config.data, resolve=True)):
        assert not [inner for key, value in node.items() for inner, _ in find_targets(value, key)], path


@pytest.mark.parametrize("option", ["data/manifest", "data/folder", "data/hub"])
def test_a_column_is_named_as_the_errors_say(option: str) -> None:
    """Hydra adds no key to a mapping without a plus sign: every column stands there, to be filled."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = [option.replace("/", "="), *USERS[option], "data.columns.text=sentence", "data.language=en"]
        config = compose("train", [*words, "name=test"])
    assert "sentence" in str(vars(build_corpus(config.data)))
    assert set(config.data.columns) >= {"audio", "text", *OPTIONAL_COLUMNS[:-1]}


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["data=language"], "new_head"),
        (["data=language", "finetune=lora"], "lora"),
        (["finetune=lora", "data=language"], "lora"),
        (["data=mixture", "+data@data.parts.ru=language", "+data@data.parts.en=accent"], "new_head"),
        (["data=mixture", "+data@data.parts.ru=language", "finetune=full"], "full"),
        (["data=accent"], "full"),
    ],
)
def test_a_corpus_brings_a_type_and_the_command_line_wins(words: list[str], chosen: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [*words, "name=test"], return_hydra_config=True)
    assert config.hydra.runtime.choices.finetune == chosen
    expected = yaml.safe_load((CONFIGS / "finetune" / f"{chosen}.yaml").read_text())
    assert config.finetune._target_ == expected["_target_"]
