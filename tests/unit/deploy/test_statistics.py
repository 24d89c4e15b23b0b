import numpy as np
import pytest

from deploy.profile_learning import normal_tail

EXPONENTIAL = np.random.default_rng(1).exponential(1.0, 200_000).astype(np.float32)


def test_q99_of_many_values():
    assert normal_tail(np.arange(1, 2001, dtype=np.float32))[:2] == pytest.approx((1000.0, 1980.0))


@pytest.mark.parametrize("count", [100, 150, 500])
def test_q99_of_few_exponential_values(count):
    tails = [normal_tail(EXPONENTIAL[first : first + count]) for first in range(0, len(EXPONENTIAL) - count, count)]
    assert np.median([tail.q99 for tail in tails]) == pytest.approx(np.log(100.0), rel=0.08)
