"""One utterance before and after each augmentation."""

from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from whispers import make_sound

from attune.report.augmentations import BEFORE, compute_panels, plot_augmentations
from attune.report.figures import save_figures
from attune.train.augmentation import Augmentation

EACH = ("speed", "room", "noise", "gain", "telephone", "spec_augment")


@pytest.fixture(scope="module")
def everything() -> Augmentation:
    # Shares of 0: the figure shows what an augmentation does, however seldom it is at work.
    return Augmentation(**{name: {} if name == "spec_augment" else {"share": 0.0} for name in EACH})


def test_every_augmentation_shows_something(everything: Augmentation) -> None:
    panels = compute_panels(make_sound(2.0, 1), everything, n_mels=80)
    assert list(panels) == [BEFORE, *EACH]
    for name in EACH:
        assert panels[name].shape == panels[BEFORE].shape == (80, 300)
        assert not torch.equal(panels[name], panels[BEFORE]), name


def test_the_figure_has_a_titled_panel_for_each(everything: Augmentation, tmp_path: Path) -> None:
    figure = plot_augmentations(make_sound(1.0, 1), everything)
    titles = [axes.get_title("left") for axes in figure.axes if axes.get_visible() and axes.images]
    assert titles == ["as recorded", "speed", "room", "noise", "gain", "telephone", "spec augment"]
    (path,) = save_figures(tmp_path, {"augmentation": figure})
    assert imread(path).shape[1] > 900


def test_one_augmentation_alone() -> None:
    figure = plot_augmentations(make_sound(1.0, 1), Augmentation(gain={"low_db": -6.0, "high_db": -6.0}))
    assert [axes.get_title("left") for axes in figure.axes if axes.images] == ["as recorded", "gain"]
