"""Default learning rates, by the model's width and by the type of fine-tuning."""

import pytest

from attune.errors import InputError
from attune.train.schedule import RATES, default_learning_rate, describe_learning_rate, linear_decay

BY_WIDTH = {192: 3, 384: 10}


@pytest.mark.parametrize(("width", "factor"), [(64, 3), (192, 3), (384, 10), (1280, 10)])
def test_the_nearest_width_counts(width: int, factor: int) -> None:
    nearest = min(RATES, key=lambda known: abs(known - width))
    assert default_learning_rate(width, BY_WIDTH) == pytest.approx(factor * RATES[nearest])
    assert default_learning_rate(width, 2.0) == pytest.approx(2 * RATES[nearest])


def test_a_rate_says_where_it_comes_from() -> None:
    default = default_learning_rate(200, BY_WIDTH)
    assert describe_learning_rate(default, 200, BY_WIDTH).startswith("0.003 (default: 0.001 for width 200, times")
    assert describe_learning_rate(0.5, 200, BY_WIDTH) == "0.5 (optimizer)"


def test_no_factor_is_refused() -> None:
    with pytest.raises(InputError, match="finetune.rate_factor is empty"):
        default_learning_rate(192, {})


def test_up_and_down_in_a_line() -> None:
    share = linear_decay(steps=10, warmup_share=0.2, final_share=0.1)
    assert [share(step) for step in (0, 1, 2, 6, 10, 12)] == pytest.approx([0.5, 1, 1, 0.55, 0.1, 0.1])
