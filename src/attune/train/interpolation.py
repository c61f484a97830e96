"""Weights between the untouched model and the trained one: what training gained and what it cost, by how far to go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.base import ChangesTokens, FineTuning, Unmergeable, merge_additions
from attune.text.counted import count_of
from attune.train.module import WhisperModule
from attune.train.objective.penalty import Penalty, check_penalty
from attune.train.scoring import Scores, score

TARGET = "validation"
SAME = "interpolate needs the same weights at both ends"
TAKE = "Take interpolate=null, or a type that ends in Whisper's own weights, such as full, layers or lora."


@dataclass(frozen=True)
class Point:
    """One model on the way: `alpha` is its share of the trained one; wer is a fraction a panel."""

    alpha: float
    wer: dict[str, float]


class Interpolation:
    """theta = (1 - alpha) theta0 + alpha theta_trained, scored for several alpha (Wortsman et al. 2022,
    arXiv:2109.01903).

    The run ends with the alpha that has the lowest WER on `validation` among those that raise the WER of no judged
    retention panel by more than `limit`; of equals, with the one nearest to the untouched model. Judged are the panels
    `retention_validation/NAME` where the corpus has them, and the reported `retention/NAME` themselves where not. The
    untouched model, alpha = 0, is always among the candidates. No choice ever looks at `test`.

    Args:
        alphas: the shares, each in [0, 1].
        limit: how much higher a judged panel's WER may be than the untouched model's, a fraction: 0.01 is one point.

    Raises:
        InputError: `alphas` are no such shares, or `limit` is no such fraction.
    """

    needs = ("retention_validation",)

    def __init__(self, alphas: Sequence[float], limit: float = 0.01):
        if isinstance(alphas, str) or not isinstance(alphas, Sequence) or not alphas or not all(map(_is_share, alphas)):
            raise InputError(f"interpolate={alphas} must be a list of shares in [0, 1]: interpolate=[0,.25,.5,.75,1]")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
            raise InputError(
                f"retention_limit={limit} must be a fraction of 0 or more, by which the WER on retention may rise: "
                "retention_limit=0.01 is a point."
            )
        self.alphas = sorted({0.0, *map(float, alphas)})
        self.limit = limit

    def check(self, finetune: FineTuning, data: SpeechDataModule, is_scratch: bool) -> None:
        """Refuse, before weights are loaded, what has no line between its two ends.

        Raises:
            InputError: with what is in the way.
        """
        kind = type(finetune).__name__
        if is_scratch:
            raise InputError("interpolate goes back towards the untouched model, and model=scratch has none.")
        if not finetune.rate_factor:
            raise InputError(f"interpolate needs a trained model, and finetune {kind} trains nothing.")
        if isinstance(finetune, ChangesTokens):
            raise InputError(f"{SAME}, and finetune {kind} changes the vocabulary. {TAKE}")
        if isinstance(finetune, Unmergeable):
            raise InputError(f"{SAME}, and finetune {kind} adds {finetune.unmergeable}. {TAKE}")
        if data.examples:
            raise InputError("interpolate scores the weights by themselves: data.in_context=0, or interpolate=null.")
        if not judged_panels(data):
            raise InputError(
                "interpolate weighs the target against what should not be forgotten, and this corpus has no retention "
                "panel. Give +data.retention.NAME=FILE."
            )

    def run(
        self,
        trainer: L.Trainer,
        module: WhisperModule,
        data: SpeechDataModule,
        start: nn.Module,
        untouched: Scores,
    ) -> tuple[Scores, dict[str, Any]]:
        """Merge what was added, go the way, and leave the chosen weights in the module.

        Args:
            start: the untouched network.
            untouched: its scores, which are not measured again.

        Returns:
            the chosen model's scores on the panels of the run, and the `interpolation` part of run.json.
        """
        network = module.whisper.network
        merge_additions(module.finetune, network)
        ends = pair_weights(start, network)
        judged = judged_panels(data)
        panels = list(dict.fromkeys([TARGET, *judged, *data.panels]))
        scored = {}
        for alpha in self.alphas:
            place(network, ends, alpha)
            known = untouched if alpha == 0 else Scores()
            scored[alpha] = score(trainer, module, data, [panel for panel in panels if panel not in known.panels])
            scored[alpha].add(known)
        points = [
            Point(alpha, {panel: scores.panels[panel].wer for panel in panels}) for alpha, scores in scored.items()
        ]
        chosen = choose(points, judged, self.limit).alpha
        place(network, ends, chosen)
        record = {
            "chosen": chosen,
            "rule": describe_rule(judged, self.limit),
            "judged": judged,
            "points": [{"alpha": point.alpha, "wer": point.wer} for point in points],
        }
        return scored[chosen].select(data.panels), record


def make_interpolation(alphas: Any, limit: float) -> Interpolation | None:
    """The keys interpolate and retention_limit of a config; None where nothing is to be interpolated."""
    return None if alphas is None else Interpolation(alphas, limit)


def check_weapons(
    penalty: Penalty | None,
    path: Interpolation | None,
    finetune: FineTuning,
    data: SpeechDataModule,
    is_scratch: bool,
) -> None:
    """Refuse, before weights are loaded, what does not go together.

    Raises:
        InputError: with what is in the way.
    """
    check_penalty(penalty, finetune, is_scratch)
    if path is not None:
        path.check(finetune, data, is_scratch)


def check_writer(path: Interpolation | None, is_another: bool) -> None:
    """Refuse, before anything is scored, a way between a CTC head's transcripts and a decoder's.

    Args:
        is_another: what writes the trained model's transcripts is not what writes the untouched one's.

    Raises:
        InputError: there is such a way.
    """
    if path is not None and is_another:
        raise InputError(
            f"{SAME}, and here one of the two models writes by a CTC head and the other by its decoder. Take "
            "interpolate=null, or keep what writes: finetune.writes."
        )


def judged_panels(data: SpeechDataModule) -> list[str]:
    """The retention panels on which alpha is chosen: those made for it, else those that are reported."""
    for room in ("retention_validation/", "retention/"):
        panels = sorted(name for name in data.splits if name.startswith(room))
        if panels:
            return panels
    return []


def choose(points: Sequence[Point], judged: Sequence[str], limit: float) -> Point:
    """The lowest WER on validation among the points that forget at most `limit`; points[0] is the untouched model."""
    start = points[0].wer
    kept = [point for point in points if not any(point.wer[name] - start[name] > limit + 1e-9 for name in judged)]
    return min(kept, key=lambda point: (point.wer[TARGET], point.alpha))


def describe_rule(judged: Sequence[str], limit: float) -> str:
    """How alpha was chosen, for the report."""
    rule = (
        f"Chosen: the lowest WER on {TARGET} among the models whose WER on {' and '.join(judged)} is at most "
        f"{count_of(round(100 * limit, 9), 'point')} above the untouched model's."
    )
    if judged[0].startswith("retention/"):
        rule += (
            " This corpus has no retention_validation panel, so the choice looked at the very retention panels that "
            "are reported: they may look a little better than they are."
        )
    return rule


def pair_weights(start: nn.Module, end: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """name -> (theta0, theta), on the CPU; theta a copy, because `place` writes over it.

    Raises:
        InputError: the networks have different weights.
    """
    first = {name: parameter.detach().cpu() for name, parameter in start.named_parameters()}
    last = {name: parameter.detach().cpu().clone() for name, parameter in end.named_parameters()}
    odd = sorted(first.keys() ^ last.keys()) or [name for name in first if first[name].shape != last[name].shape]
    if odd:
        raise InputError(f"interpolate: {odd[0]} is not the same in the untouched and the trained model.")
    return {name: (first[name].to(weight.dtype), weight) for name, weight in last.items()}


@torch.no_grad()
def place(network: nn.Module, ends: dict[str, tuple[Tensor, Tensor]], alpha: float) -> None:
    """Set the weights at `alpha` of the way; at 0 and at 1 they are the ends bit for bit."""
    for name, parameter in network.named_parameters():
        parameter.copy_(torch.lerp(*ends[name], alpha))


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
