import numpy as np
import pytest

from trainer.tail import normal_tail

EXPONENTIAL = np.random.default_rng(1).exponential(1.0, 200_000).astype(np.float32)


def test_with_many_values_it_is_the_plain_quantile():
    assert normal_tail(np.arange(1, 2001, dtype=np.float32)) == pytest.approx((1000.0, 1980.0))


@pytest.mark.parametrize("count", [100, 150, 500])
def test_with_few_values_an_exponential_tail_is_carried_on_to_its_q99(count):
    tails = [normal_tail(EXPONENTIAL[first : first + count]) for first in range(0, len(EXPONENTIAL) - count, count)]
    assert np.median([tail.q99 for tail in tails]) == pytest.approx(np.log(100.0), rel=0.08)


def test_rarities_go_on_beyond_q99():
    tail = normal_tail(EXPONENTIAL)
    assert tail.at(100.0) == pytest.approx(tail.q99)
    assert tail.at(10_000.0) == pytest.approx(np.log(10_000.0), rel=0.05)
