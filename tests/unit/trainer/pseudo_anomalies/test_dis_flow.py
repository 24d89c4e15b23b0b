import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.pseudo_anomalies.segments import DisFlow, resize_flow


def textured(right_px: float = 0.0, down_px: float = 0.0) -> np.ndarray:
    noise = cv2.resize(np.random.default_rng(0).normal(128, 60, (24, 32)), (96, 72), interpolation=cv2.INTER_CUBIC)
    shift = np.array([[1, 0, right_px], [0, 1, down_px]])
    moved = cv2.warpAffine(noise, shift, (96, 72), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return moved.clip(0, 255).astype(np.uint8)


@settings(deadline=None, max_examples=10)
@given(st.floats(-2.5, 2.5), st.floats(-2.5, 2.5))
def test_flow_points_to_the_earlier_frame(right_px, down_px):
    flow = DisFlow().flow(textured(right_px, down_px), textured())
    assert flow.dtype == np.float32
    assert flow.shape == (18, 24, 2)
    assert np.median(flow[3:-3, 3:-3], axis=(0, 1)) == pytest.approx([-right_px, -down_px], abs=0.2)


def test_no_motion_gives_no_flow():
    assert float(np.abs(DisFlow().flow(textured(), textured())).max()) < 0.05


def test_resizing_keeps_speeds():
    flow = resize_flow(np.full((18, 24, 2), (1.5, -0.5), np.float32), (72, 96))
    assert flow.shape == (72, 96, 2)
    assert flow.reshape(-1, 2).min(0).tolist() == flow.reshape(-1, 2).max(0).tolist() == [1.5, -0.5]
