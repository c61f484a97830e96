"""The figures of a run. Each function returns a matplotlib Figure; nothing here touches pyplot's global state."""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attune.audio.log_mel import LogMel
from attune.audio.waveform import FRAMES_PER_S, SAMPLE_RATE_HZ
from attune.report.record import Panel, RunRecord

DPI = 150
# Okabe and Ito (2008): distinct under every common colour blindness, and chosen here to differ in lightness too.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
ERROR_COLOURS = {"substitutions": BLUE, "deletions": ORANGE, "insertions": PURPLE}
_PANEL_COLOURS = (ORANGE, GREEN, PURPLE, SKY)
_INK, _MUTED, _GRID = "#222222", "#6b6b6b", "#e4e4e4"
# A transcript may stand in any script: every family that this machine has is tried, glyph by glyph.
_SCRIPTS = ("Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil", "Thai", "CJK JP", "CJK SC", "CJK KR")
_SYSTEM_FAMILIES = ("Arial Unicode MS", "Nirmala UI", "Leelawadee UI", "Microsoft YaHei", "Malgun Gothic")
_WANTED = ("DejaVu Sans", *(f"Noto Sans {script}" for script in _SCRIPTS), *_SYSTEM_FAMILIES)
_FAMILIES = [family for family in _WANTED if family in font_manager.get_font_names()]

_STYLE: dict[Any, Any] = {
    "font.family": _FAMILIES,
    "font.size": 9.5,
    "text.color": _INK,
    "text.parse_math": False,  # a transcript or a panel's name may hold a dollar sign
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "attune",  # the same figure has the same identifiers inside
}


@matplotlib.rc_context(_STYLE)
def plot_error_types(record: RunRecord) -> Figure | None:
    """Substitutions, deletions and insertions per 100 reference words, before and after; None if nothing was scored.

    The length of a bar is the panel's WER in %.
    """
    bars = [
        (panel, moment, scores[panel])
        for panel in dict.fromkeys([*record.baseline, *record.result])
        for moment, scores in (("before", record.baseline), ("after", record.result))
        if scores.get(panel, {}).get("words")
    ]
    if not bars:
        return None
    figure = Figure(figsize=(7.2, 1.25 + 0.36 * len(bars)))
    axes = figure.subplots()
    _draw_bars(axes, bars)
    axes.set_xlabel("Errors per 100 reference words")
    figure.legend(loc="outside upper left", ncols=3, handlelength=1.1)
    return figure


@matplotlib.rc_context(_STYLE)
def plot_interpolation(record: RunRecord) -> Figure | None:
    """Target against retention from the untouched model to the trained one, labelled by alpha; None without such a run.

    Retention is the mean of its panels' WER in %. The choice was made on the dashed line, the solid one is the result.
    """
    if not record.interpolation:
        return None
    points, judged, chosen = (record.interpolation[key] for key in ("points", "judged", "chosen"))
    reported = [name for name in points[0]["wer"] if name.startswith("retention/")]
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    for target, panels, colour, line in (("validation", judged, _MUTED, "--"), ("test", reported, RED, "-")):
        ways = [(point["alpha"], _mean_percent(point["wer"], panels), 100 * point["wer"][target]) for point in points]
        _, retention, wer = zip(*ways, strict=True)
        axes.plot(retention, wer, line, color=colour, marker="o", markersize=4, label=target)
        for alpha, x, y in ways:
            axes.annotate(f"{alpha:g}", (x, y), (5, 5), textcoords="offset points", color=colour, fontsize=9)
        at = next((x, y) for alpha, x, y in ways if alpha == chosen)
        axes.plot(*at, "o", markersize=11, markerfacecolor="none", markeredgecolor=_INK, label="_chosen")
    axes.set_xlabel("Retention WER (%)")
    axes.set_ylabel("Target WER (%)")
    axes.set_title(f"0 is the untouched model, 1 the trained one; ringed: {chosen:g}, which is kept")
    axes.legend()
    return figure


@matplotlib.rc_context(_STYLE)
def plot_log_mel(
    waveform: Float[Tensor, "sample"],
    reference: str,
    hypothesis: str,
    n_mels: int = 80,
    window_s: float | None = None,
) -> Figure:
    """What the encoder hears of one utterance, with what was said and what was recognised.

    Args:
        waveform: one utterance, 16 kHz.
        n_mels: mel channels of the model, 80 or 128.
        window_s: the window that the model was given, in seconds; longer than the audio, it is filled with silence.
    """
    audio_s = waveform.shape[-1] / SAMPLE_RATE_HZ
    padding = max(0, round((window_s or 0.0) * SAMPLE_RATE_HZ) - waveform.shape[-1])
    with torch.no_grad():
        log_mel = LogMel(n_mels)(torch.nn.functional.pad(waveform.cpu(), (0, padding))[None])[0]
    figure = Figure(figsize=(7.2, 3.2))
    axes = figure.subplots()
    extent = (0.0, log_mel.shape[-1] / FRAMES_PER_S, 0.0, float(n_mels))
    image = axes.imshow(log_mel.numpy(), origin="lower", aspect="auto", cmap="magma", extent=extent)
    figure.colorbar(image, pad=0.02, label="Log-mel (log₁₀ power / 4 + 1)").outline.set_visible(False)
    _mark_end(axes, audio_s, extent[1])
    axes.set(xlabel="Time (s)", ylabel="Mel channel")
    axes.set_title(f"{_fill('Reference', reference)}\n{_fill('Hypothesis', hypothesis)}", fontsize=9)
    axes.grid(False)
    return figure


def begin_at_zero(axes: Axes) -> None:
    """The y-axis from 0 to a little above what has been drawn: no curve runs along the upper edge, or over it."""
    highest = axes.dataLim.y1
    axes.set_ylim(0, 1.08 * highest if 0 < highest < float("inf") else 1)


def save_figures(
    folder: Path, figures: Mapping[str, Figure | None], kinds: Sequence[Literal["png", "svg"]] = ("png",)
) -> list[Path]:
    """Write figures/NAME.png, at 150 dpi, and NAME.svg into a run folder; a figure that is None had nothing to show."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    paths = []
    for name, kind in product(figures, kinds):
        if (figure := figures[name]) is not None:
            paths.append(folder / "figures" / f"{name}.{kind}")
            with matplotlib.rc_context(_STYLE):
                # Without its date, an SVG of the same numbers is the same file.
                figure.savefig(
                    paths[-1], dpi=DPI, facecolor="white", metadata={"Date": None} if kind == "svg" else None
                )
    return paths


def _mean_percent(wer: Mapping[str, float | None], panels: Sequence[str]) -> float:
    """A rate that does not exist is NaN in memory and None in a record that was read: no point is drawn for either."""
    values = [wer[name] for name in panels]
    return 100 * float(np.mean([np.nan if value is None else value for value in values]))


def _draw_bars(axes: Axes, bars: list[tuple[str, str, Panel]]) -> None:
    panels = list(dict.fromkeys(panel for panel, _, _ in bars))
    # Half a bar of air between two panels, none within one.
    heights = np.array([index + 0.5 * panels.index(panel) for index, (panel, _, _) in enumerate(bars)])
    left = np.zeros(len(bars))
    for kind, colour in ERROR_COLOURS.items():
        rates = np.array([100 * scores[kind] / scores["words"] for _, _, scores in bars])
        axes.barh(heights, rates, 0.86, left, color=colour, edgecolor="white", linewidth=0.7, label=kind)
        left += rates
    for height, total in zip(heights, left, strict=True):
        axes.annotate(f"{total:.1f}", (total, height), (4, 0), textcoords="offset points", va="center", fontsize=9)
    labels = [f"{panel}   {moment}" if moment == "before" else moment for panel, moment, _ in bars]
    axes.set_yticks(heights, labels)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.1 * max(left.max(), 1.0))
    axes.invert_yaxis()


def _mark_end(axes: Axes, audio_s: float, window_s: float) -> None:
    axes.axvline(audio_s, color="white", linestyle="--", linewidth=1.3)
    # The label stands on the side that has room.
    after = audio_s < 0.75 * window_s
    axes.annotate(
        f"end of audio, {audio_s:.2f} s",
        (audio_s, 0.94),
        (6 if after else -6, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left" if after else "right",
        va="top",
        color="white",
        fontsize=9,
    )


def _fill(label: str, transcript: str) -> str:
    """At most two lines; a script without spaces is broken anywhere, and its letters are twice as wide."""
    if not _is_drawable(transcript):
        transcript = "(no font on this machine has its letters; report.html shows it)"
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in transcript)
    text = f"{label}: {transcript.strip() or '(nothing)'}"
    return textwrap.fill(text, 42 if wide else 84, max_lines=2, placeholder=" …", subsequent_indent="    ")


def _is_drawable(text: str) -> bool:
    """Whether some font has each letter; matplotlib draws a box and warns, once a letter, where none has."""
    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in _FAMILIES]
    return all(any(font.get_char_index(ord(letter)) for font in fonts) for letter in set(text) if not letter.isspace())
