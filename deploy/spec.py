"""``ClipSpec``: what a clip is. The one contract between footage, training and serving."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Side = Annotated[int, Field(ge=1, le=4096)]


class ClipSpec(BaseModel):
    """Shape and meaning of the clips a model takes: ``uint8 (length, height_px, width_px, channels)``.

    A clip is the last ``length`` consecutive frames of one camera, oldest first; every frame that completes a clip is
    scored. A model that wants frames further apart picks them inside its graph, so nothing else has to know.

    A *recurrent* model takes, besides the clip, a state that it gave back with the camera's frame before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=1, le=64)
    """Frames in a clip."""
    height_px: int = Field(ge=16, le=2048)
    width_px: int = Field(ge=16, le=2048)
    colour: Literal["gray", "bgr"] = "gray"
    fps: float = Field(default=10.0, gt=0, le=240)
    """Frames per second of the footage the model was trained on: motion is measured in frames, so cameras should match it."""
    state_shape: tuple[Side, Side, Side] | None = None
    """(C, h, w) of the state of one camera, float32; zeros are "nothing seen yet". None: the model carries no state."""
    state_warmup_frames: int = Field(default=0, ge=0, le=600)
    """Frames after which a state has forgotten, to rounding, what came before them; 0 where there is no state."""

    @model_validator(mode="after")
    def _only_a_state_warms_up(self) -> "ClipSpec":
        if self.state_shape is None and self.state_warmup_frames:
            raise ValueError(f"state_warmup_frames must be 0 without a state_shape, got {self.state_warmup_frames}")
        return self

    @property
    def channels(self) -> int:
        """1 for gray, 3 for BGR."""
        return 1 if self.colour == "gray" else 3

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one fitted frame."""
        return (self.height_px, self.width_px, self.channels)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one clip."""
        return (self.length, *self.frame_shape)

    @property
    def warmup_frames(self) -> int:
        """Frames of a camera that rebuild its clip and state after a restart, before the next frame can be scored."""
        return self.length - 1 + self.state_warmup_frames
