import numpy as np
import pytest

from deploy.statistics import normal_tail

EXPONENTIAL = np.random.default_rng(1).exponential(1.0, 200_000).astype(np.float32)


def test_q99_of_many_values():
    assert normal_tail(np.arange(1, 2001, dtype=np.float32))[:2] == pytest.approx((1000.0, 1980.0))


@pytest.mark.parametrize("count", [100, 150, 500])
def test_q99_of_few_exponential_values(count):
    tails = [normal_tail(EXPONENTIAL[first : first + count]) for first in range(0, len(EXPONENTIAL) - count, count)]
    assert np.median([tail.q99 for tail in tails]) == pytest.approx(np.log(100.0), rel=0.08)


def test_return_level_beyond_q99():
    tail = normal_tail(EXPONENTIAL)
    assert tail.return_level(100.0) == pytest.approx(tail.q99)
    assert tail.return_level(10_000.0) == pytest.approx(np.log(10_000.0), rel=0.05)


@pytest.mark.parametrize("count", [90, 500, 4000])
def test_error_matches_spread_of_tails(count):
    tails = [normal_tail(EXPONENTIAL[first : first + count]) for first in range(0, len(EXPONENTIAL) - count, count)]
    heights = np.array([tail.q99 - tail.median for tail in tails])
    assert np.mean([tail.error for tail in tails]) == pytest.approx(heights.std() / heights.mean(), rel=0.2)


def test_runs_count_once_in_error():
    alone = normal_tail(EXPONENTIAL[:4000]).error
    in_stretches = normal_tail(np.repeat(EXPONENTIAL[:400], 10)).error
    assert in_stretches == pytest.approx(alone * np.sqrt(10.0), rel=0.25)


def test_error_of_constant_values():
    assert 0.0 < normal_tail(np.full(50, 2.0, np.float32)).error < 2.0
