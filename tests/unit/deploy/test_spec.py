"""What a clip spec says of a model's state."""

import pytest
from pydantic import ValidationError

from deploy.spec import ClipSpec


def test_clip_and_state_warm_up_one_after_the_other() -> None:
    spec = ClipSpec(length=4, height_px=16, width_px=16, state_shape=(2, 4, 4), state_warmup_frames=60)
    assert spec.warmup_frames == 63


def test_a_model_without_a_state_warms_up_with_its_clip_alone() -> None:
    assert ClipSpec(length=4, height_px=16, width_px=16).warmup_frames == 3


def test_warm_up_of_a_state_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValidationError, match="state_warmup_frames must be 0 without a state_shape, got 5"):
        ClipSpec(length=1, height_px=16, width_px=16, state_warmup_frames=5)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4), (2, 4, -1)])
def test_a_state_without_values_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValidationError, match="state_shape"):
        ClipSpec(length=1, height_px=16, width_px=16, state_shape=shape)
