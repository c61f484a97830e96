"""Learning rates: the schedule, and a default for each size of Whisper."""

from collections.abc import Callable, Mapping, Sequence

from attune.errors import InputError
from attune.model.finetune.base import RateFactor

# Width of the model -> peak rate for fine-tuning all of it: a fortieth of the rate of Whisper's own pretraining, as
# OpenAI advises. nano's (width 192) was found on data=accent: docs/log.md.
RATES = {192: 1e-3, 384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.4e-6}


def check_optimizer(
    learning_rate: float | None, rate_share: float, betas: Sequence[float], weight_decay: float, **shares: float
) -> None:
    """Refuse settings with which AdamW learns nothing, or breaks.

    Args:
        shares: warmup_share and final_share.

    Raises:
        InputError: a rate is not above 0, a beta not in [0, 1), a share not in [0, 1], or the weights would grow.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"optimizer.{name}={share:g}: accepted is a share in [0, 1].")
    if weight_decay < 0:
        raise InputError(f"optimizer.weight_decay={weight_decay:g} would make weights grow: 0 or more.")
    for name, rate in {"learning_rate": learning_rate, "rate_share": rate_share}.items():
        if rate is not None and rate <= 0:
            raise InputError(f"optimizer.{name}={rate:g} must be above 0. No training: finetune=none.")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"optimizer.betas={list(betas)}: accepted are two shares in [0, 1).")


def default_learning_rate(width: int, factor: RateFactor = 1.0) -> float:
    """The rate of the published size nearest in width, times the fine-tuning type's own factor for such a size."""
    return _find_nearest(RATES, width) * _read_factor(factor, width)


def describe_learning_rate(rate: float, width: int, factor: RateFactor) -> str:
    """The peak rate, and where it comes from."""
    if rate != default_learning_rate(width, factor):
        return f"{rate:.3g} (optimizer)"
    base, times = _find_nearest(RATES, width), _read_factor(factor, width)
    return f"{rate:.3g} (default: {base:.3g} for width {width}, times finetune.rate_factor, {times:g})"


def _read_factor(factor: RateFactor, width: int) -> float:
    if isinstance(factor, Mapping) and not factor:
        raise InputError(
            "finetune.rate_factor is empty. Give a number, or one for each width, as in {192: 3, 384: 10}."
        )
    return _find_nearest(factor, width) if isinstance(factor, Mapping) else factor


def _find_nearest(by_width: Mapping[int, float], width: int) -> float:
    return by_width[min(by_width, key=lambda known: abs(known - width))]


def linear_decay(steps: int, warmup_share: float, final_share: float) -> Callable[[int], float]:
    """step -> share of the peak rate: up in a line over the warm-up, then down in a line to `final_share`."""
    warmup = max(1, round(steps * warmup_share))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        return final_share + (1 - final_share) * left

    return share
