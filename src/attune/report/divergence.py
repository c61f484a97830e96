"""Loss falls and WER rises: it is told, because who looks at the loss alone takes the wrong checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

from numpy.typing import NDArray

LOSS_FALLS = 0.01  # of the loss at the first step: less is noise
WER_RISES, WER_RISES_BY = 0.005, 0.02  # a fraction of the words; of the WER at the first step


@dataclass(frozen=True)
class Divergence:
    """Two validations of one run: between them the loss fell and the WER rose. WER is a fraction."""

    first_step: int
    last_step: int
    first_loss: float
    last_loss: float
    first_wer: float
    last_wer: float


def find_divergence(curves: Mapping[str, tuple[NDArray, NDArray]], monitored: str | None = None) -> Divergence | None:
    """The two validations between which the WER rose most while the loss fell; None where there are no such two.

    Args:
        curves: key -> (steps, values), with val/loss and val/wer among them.
        monitored: what the kept weights have the least of; None is the WER. An objective that is not judged by the
            WER does not teach to write: that the WER rises is then no surprise, and nothing is found.
    """
    if monitored not in (None, "val/wer") or not {"val/loss", "val/wer"} <= curves.keys():
        return None
    losses, rates = (
        {float(step): float(value) for step, value in zip(*curves[key], strict=True)} for key in ("val/loss", "val/wer")
    )
    steps = sorted(losses.keys() & rates.keys())
    pairs = [
        (rates[last] - rates[first], first, last)
        for place, first in enumerate(steps)
        for last in steps[place + 1 :]
        if losses[last] < (1 - LOSS_FALLS) * losses[first]
        and rates[last] - rates[first] > max(WER_RISES, WER_RISES_BY * rates[first])
    ]
    if not pairs:
        return None
    _, first, last = max(pairs)
    return Divergence(int(first), int(last), losses[first], losses[last], rates[first], rates[last])


def explain_divergence(found: Divergence | None, keep: str = "best") -> str:
    """What happened, why it can, and what came of it; "" for nothing.

    Args:
        keep: which weights the run ended with: best, last or topK.
    """
    if found is None:
        return ""
    outcome = (
        "Whoever had kept the lowest loss would have kept the worse transcripts; keep=last does the like."
        if keep == "last"
        else "The weights that were kept were chosen by WER, not by loss."
    )
    return (
        f"From step {found.first_step} to step {found.last_step} the validation loss fell from "
        f"{found.first_loss:.3f} to {found.last_loss:.3f}, and the WER rose from {100 * found.first_wer:.1f} to "
        f"{100 * found.last_wer:.1f} %. Both can be true: the loss is computed with the right words given up to each "
        "token, and the WER on what the model writes by itself, where one wrong word leads to the next, and a missing "
        f"end or a repeat costs many. {outcome}"
    )
