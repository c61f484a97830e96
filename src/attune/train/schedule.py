"""Learning rates: the schedule, and a default for each size of Whisper."""

from collections.abc import Callable

# Width of the model -> peak rate for fine-tuning all of it: a fortieth of the rate of Whisper's own pretraining, as
# OpenAI advises. nano's (width 192) was found on data=accent: docs/log.md.
RATES = {192: 1e-3, 384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.4e-6}


def default_learning_rate(width: int, factor: float = 1.0) -> float:
    """The published size nearest in width, times the fine-tuning type's own factor (LoRA's is larger than 1)."""
    nearest = min(RATES, key=lambda known: abs(known - width))
    return RATES[nearest] * factor


def linear_decay(steps: int, warmup_share: float, final_share: float) -> Callable[[int], float]:
    """step -> share of the peak rate: up in a line over the warm-up, then down in a line to `final_share`."""
    warmup = max(1, round(steps * warmup_share))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        return final_share + (1 - final_share) * left

    return share
