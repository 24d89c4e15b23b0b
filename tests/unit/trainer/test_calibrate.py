import math

import numpy as np
import pytest

from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.errors import TooLittleFootage

NORMAL = np.random.default_rng(0).exponential(1.0, 2000).astype(np.float32)


def test_quantiles_of_scores():
    calibration = calibration_from(np.arange(1, 2001, dtype=np.float32))
    assert (calibration.median, calibration.q99, calibration.frames) == pytest.approx((1000.0, 1980.0, 2000))


def test_thresholds_above_normal_scores():
    calibration = calibration_from(NORMAL)
    assert calibration.median < calibration.q99 < calibration.exit < calibration.enter
    assert calibration.q999 == pytest.approx(math.log(1000), rel=0.1)
    assert 0 < np.mean(calibration.enter <= NORMAL) < 0.5 * 50**-1.5


def test_thresholds_of_many_frames():
    many = np.random.default_rng(1).exponential(1.0, 500_000).astype(np.float32)
    calibration = calibration_from(many)
    assert np.mean(calibration.enter <= many) == pytest.approx(0.5 * 50**-1.5, rel=0.2)
    assert np.mean(calibration.exit <= many) == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("frames", [60, 90, 300, 1000])
def test_little_footage_seldom_lowers_threshold(frames):
    meant = calibration_from(np.random.default_rng(2).exponential(1.0, 1_000_000).astype(np.float32)).enter
    draws = np.random.default_rng(3).exponential(1.0, (300, frames)).astype(np.float32)
    assert np.mean([calibration_from(scores).enter < meant for scores in draws]) < 0.09


def test_one_outlier_hardly_moves_threshold():
    polluted = calibration_from(np.append(NORMAL[1:], np.float32(1e6)))
    assert polluted.enter == pytest.approx(calibration_from(NORMAL).enter, rel=0.05)


def test_one_unusual_second_hardly_moves_threshold():
    calm = NORMAL[:300].copy()
    strange = calm.copy()
    strange[:9] = 1e6
    assert calibration_from(strange).enter == pytest.approx(calibration_from(calm).enter, rel=0.4)


def test_constant_scores():
    calibration = calibration_from(np.full(100, 2.0, np.float32))
    assert calibration.enter > calibration.exit > 2.0


def test_rejects_too_few_frames():
    with pytest.raises(
        TooLittleFootage, match=rf"49 normal frames can be scored to calibrate on; at least {MIN_FRAMES} are needed"
    ):
        calibration_from(NORMAL[:49])
