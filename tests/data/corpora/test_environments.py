"""Noisy places: the stated ratio, the same again, and old caches found where they lie."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from attune.audio.acoustics import compute_power
from attune.audio.context import AudioContext
from attune.audio.speech import Voice, speak
from attune.data.corpora.environments import ENVIRONMENTS, make_babble, place
from attune.data.corpora.synthetic import Panel, SyntheticCorpus, plan_panel
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens
from attune.use.config import build

CONFIGS = Path(__file__).parents[3] / "configs"
NOISY = Panel(6, ["en-us"], ["m1", "f1"], "test", noise_db=(0, 20), environments=ENVIRONMENTS)


@pytest.fixture(scope="module")
def spoken() -> torch.Tensor:
    return speak("Seven blue boats.", Voice())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_place_keeps_the_length_and_repeats(environment: str, spoken: torch.Tensor) -> None:
    heard = place(spoken, environment, 5.0, seed=3)
    assert heard.shape == spoken.shape and heard.dtype == torch.float32
    assert torch.isfinite(heard).all() and heard.abs().max() <= 1
    assert not torch.equal(heard, spoken)
    assert torch.equal(heard, place(spoken, environment, 5.0, seed=3))
    assert not torch.equal(heard, place(spoken, environment, 5.0, seed=4))


@pytest.mark.parametrize("environment", ["babble", "stationary"])
def test_the_stated_ratio_is_the_one_that_is_heard(environment: str, spoken: torch.Tensor) -> None:
    quiet = 0.1 * spoken  # so that nothing is scaled
    for snr_db in (0.0, 12.0):
        added = place(quiet, environment, snr_db, seed=1) - quiet
        whole = torch.tensor([len(quiet)])
        ratio = compute_power(quiet[None], whole) / compute_power(added[None], whole)
        assert float(10 * ratio.log10()) == pytest.approx(snr_db, abs=0.1)


def test_babble_is_many_people() -> None:
    babble = make_babble(48_000, random.Random(1))
    assert babble.shape == (48_000,)
    windows = babble.reshape(30, 1_600).square().mean(dim=1)  # tenths of a second: no pause in it
    assert windows.min() > 0.02 * windows.mean()


def test_utterances_take_the_places_in_turn() -> None:
    planned = plan_panel("test", NOISY, seed=0)
    assert [each.environment for each in planned] == [*ENVIRONMENTS, *ENVIRONMENTS[:2]]
    assert all(each.noise_db is not None and 0 <= each.noise_db <= 20 for each in planned)
    assert len({each.seed for each in planned}) == 6


def test_one_ratio_of_the_test_differs_from_the_test_in_nothing_else() -> None:
    whole = plan_panel("test", NOISY, seed=0)
    part = plan_panel("test/snr_05", replace(NOISY, utterances=4, noise_db=(5, 5)), seed=0)
    assert {each.noise_db for each in part} == {5}
    assert [replace(each, id="", noise_db=None) for each in part] == [
        replace(each, id="", noise_db=None) for each in whole[:4]
    ]
    assert not {each.id for each in part} & {each.id for each in whole}


@pytest.mark.parametrize("wrong", [{"environments": ["moon"], "noise_db": (0, 5)}, {"environments": ["babble"]}])
def test_a_place_that_there_is_not(wrong: dict) -> None:
    with pytest.raises(InputError, match=r"babble, stationary, reverberation, telephone.*noise_db"):
        Panel(4, ["en-us"], ["m1"], **wrong)


def test_conditions_are_scored_behind_the_test(nano_tokens: Tokens) -> None:
    data = SpeechDataModule(SyntheticCorpus({"train": NOISY}), nano_tokens, AudioContext())
    names = ("validation", "retention/general", "test/snr_20", "train", "test", "test/snr_00", "replay")
    data.splits = dict.fromkeys(names, None)  # type: ignore[assignment]  # the names alone are looked at
    assert data.panels == ["test", "test/snr_00", "test/snr_20", "retention/general"]


def folder_of(corpus: SyntheticCorpus, name: str) -> str:
    panel = {**corpus.panels, **corpus.extra_panels}[name]
    return hashlib.sha256(json.dumps(corpus._key(name, panel), sort_keys=True).encode()).hexdigest()[:16]


def compose_corpus(option: str) -> SyntheticCorpus:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return build(compose("train", [f"data={option}", "name=test"]).data.corpus)


@pytest.mark.parametrize(
    ("option", "name", "folder"),
    [
        ("accent", "train", "853f8052820dd2d9"),
        ("accent", "retention/general", "765c4a8b0e5d7127"),
        ("everyday", "train", "020f602003184254"),  # forty hours, which nobody should render twice
        ("language", "retention/general", "765c4a8b0e5d7127"),
        ("noise", "retention/general", "765c4a8b0e5d7127"),
        ("domain", "retention/general", "765c4a8b0e5d7127"),
    ],
)
def test_a_panel_that_was_rendered_is_found(option: str, name: str, folder: str) -> None:
    """The folders of RENDERING 3: later fields of Panel must not move them, and adaptations share their own."""
    assert folder_of(compose_corpus(option), name) == folder


def test_what_changes_the_sound_changes_the_folder() -> None:
    panel = Panel(4, ["en-us"], ["m1"], noise_db=(5, 5))
    panels = [
        panel,
        replace(panel, environments=("babble",)),
        replace(panel, environments=("telephone",)),
        replace(panel, grammar="clinical"),
        replace(panel, language="de"),
    ]
    assert len({folder_of(SyntheticCorpus({"train": each}), "train") for each in panels}) == len(panels)


@pytest.mark.parametrize("option", ["language", "noise", "domain"])
def test_embedded_adaptations_are_rendered(option: str, tmp_path: Path) -> None:
    """The first utterances of every panel."""
    corpus = compose_corpus(option)
    corpus.cache_dir = tmp_path
    corpus.panels = {name: replace(panel, utterances=4) for name, panel in corpus.panels.items()}
    splits = corpus.splits()
    assert {"train", "validation", "test", "retention/general"} <= splits.keys()
    for name, rows in splits.items():
        assert len(rows) == 4 and all(0.5 < duration_s < 8 for duration_s in rows["duration_s"])
        assert set(rows["language"]) == {"ru" if option == "language" and "/" not in name else "en"}
    texts = " ".join(list(splits["test"]["text"]))
    assert any("а" <= letter <= "я" for letter in texts.lower()) == (option == "language")
    if option == "noise":
        assert {"test/snr_00", "test/snr_05", "test/snr_10", "test/snr_20"} <= splits.keys()
        assert list(splits["test/snr_00"]["text"]) == list(splits["test"]["text"])
        assert "babble at 0.0 dB" in splits["test/snr_00"]["place"][0]
