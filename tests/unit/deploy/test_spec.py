"""What a clip spec says of a model's state."""

import pytest
from pydantic import ValidationError

from deploy.spec import ClipSpec


def test_warmup_of_clip_and_state() -> None:
    spec = ClipSpec(length=4, height_px=16, width_px=16, state_shape=(2, 4, 4), state_warmup_frames=60)
    assert spec.warmup_frames == 63


def test_warmup_of_stateless_model() -> None:
    assert ClipSpec(length=4, height_px=16, width_px=16).warmup_frames == 3


def test_rejects_warmup_without_state() -> None:
    with pytest.raises(ValidationError, match="state_warmup_frames must be 0 without a state_shape, got 5"):
        ClipSpec(length=1, height_px=16, width_px=16, state_warmup_frames=5)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4), (2, 4, -1)])
def test_rejects_empty_state(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValidationError, match="state_shape"):
        ClipSpec(length=1, height_px=16, width_px=16, state_shape=shape)
