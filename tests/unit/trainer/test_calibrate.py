import numpy as np
import pytest

from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.errors import TooLittleFootage

NORMAL = np.random.default_rng(0).exponential(1.0, 2000).astype(np.float32)


def test_frames_without_score_do_not_count():
    row = np.concatenate([np.full(10, np.nan, np.float32), NORMAL])
    assert calibration_from([row], fps=25.0) == calibration_from([NORMAL], fps=25.0)
    assert calibration_from([row], fps=25.0).observed_s == pytest.approx(80.0)


def test_calm_footage_keeps_the_normal_range():
    calm = calibration_from([NORMAL / 1000], fps=10.0)
    assert calm.peaks[0] == 1.0
    assert calibration_from([NORMAL], fps=10.0).peaks[0] > 1.0


def test_rejects_too_few_frames():
    with pytest.raises(
        TooLittleFootage, match=rf"19 normal frames can be scored to calibrate on; at least {MIN_FRAMES} are needed"
    ):
        calibration_from([NORMAL[:10], NORMAL[:9]], fps=10.0)
