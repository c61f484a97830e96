"""A figure of what augmentation does: one utterance as it was recorded, and after each augmentation by itself."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

from attune.audio.augment import WaveformAugmentation
from attune.audio.log_mel import LogMel
from attune.audio.waveform import FRAMES_PER_S, SAMPLE_RATE_HZ
from attune.data.audit import load_row
from attune.data.module import SpeechDataModule
from attune.report.figures import _STYLE, save_figures
from attune.train.augmentation import Augmentation

BEFORE = "as recorded"
SILENCE_S = 1.0  # behind the utterance: a slower one needs it
TRIES = 20  # a speed of 1 or a mask of width 0 would show nothing


def draw_augmentation(folder: Path, augmentation: Augmentation, data: SpeechDataModule) -> None:
    """figures/augmentation.png, before the first step; nothing where no sound is changed."""
    if augmentation.waveform or augmentation.spec_augment:
        first = int(np.flatnonzero(data.audit.sounds["train"].heard[data.audit.sounds["train"].usable])[0])
        waveform = load_row(data.splits["train"][first])
        save_figures(folder, {"augmentation": plot_augmentations(waveform, augmentation)})


@matplotlib.rc_context(_STYLE)
def plot_augmentations(waveform: Float[Tensor, "sample"], augmentation: Augmentation, n_mels: int = 80) -> Figure:
    """Log-mels, one beside another, whatever share of the utterances an augmentation is given in training.

    Args:
        waveform: one utterance, 16 kHz.
        n_mels: mel channels of the model, 80 or 128.
    """
    panels = compute_panels(waveform, augmentation, n_mels)
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(7.2, 0.5 + 1.6 * rows))
    grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flatten()
    low, high = float(panels[BEFORE].min()), float(panels[BEFORE].max())
    extent = (0.0, panels[BEFORE].shape[-1] / FRAMES_PER_S, 0.0, float(n_mels))
    style: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "magma", "extent": extent}
    images = [
        axes.imshow(log_mel.numpy(), vmin=low, vmax=high, **style)
        for axes, log_mel in zip(grid, panels.values(), strict=False)
    ]
    for axes, name in zip(grid, panels, strict=False):
        axes.set_title(name.replace("_", " "))
        axes.grid(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.colorbar(images[0], ax=list(grid), label="Log-mel (log₁₀ power / 4 + 1)").outline.set_visible(False)
    figure.supxlabel("Time (s)", fontsize=9.5)
    figure.supylabel("Mel channel", fontsize=9.5)
    return figure


@torch.no_grad()
def compute_panels(
    waveform: Float[Tensor, "sample"], augmentation: Augmentation, n_mels: int
) -> dict[str, Float[Tensor, "mel frame"]]:
    """The log-mel as it was, and after each augmentation by itself, under the augmentation's name."""
    lengths = torch.tensor([waveform.shape[-1]])
    before = pad(waveform.cpu(), (0, int(SILENCE_S * SAMPLE_RATE_HZ)))[None]
    log_mel = LogMel(n_mels)
    panels = {BEFORE: log_mel(before)}
    for name, change in augmentation.waveform.items():
        panels[name] = log_mel(_change(change, before, lengths))
    if augmentation.spec_augment:
        for seed in range(TRIES):
            hidden = augmentation.spec_augment(panels[BEFORE], lengths, torch.Generator().manual_seed(seed))
            panels["spec_augment"] = hidden
            if not torch.equal(hidden, panels[BEFORE]):
                break
    return {name: each[0] for name, each in panels.items()}


def _change(augmentation: WaveformAugmentation, waveform: Tensor, lengths: Tensor) -> Tensor:
    heard = waveform
    for seed in range(TRIES):
        heard, _ = augmentation(waveform, lengths, torch.Generator().manual_seed(seed))
        if not torch.equal(heard, waveform):
            break
    return heard
