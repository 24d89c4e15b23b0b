"""``ClipSpec``: shape and meaning of clips, the contract between footage, training and serving."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Side = Annotated[int, Field(ge=1, le=4096)]


class ClipSpec(BaseModel):
    """The clips a model takes: ``uint8 (length, height_px, width_px, channels)``.

    A clip is the last ``length`` consecutive frames of one camera, oldest first; every frame that completes a clip is
    scored. A model that needs frames further apart selects them inside its graph.

    A *recurrent* model also takes a state, which it returned with the camera's previous frame. A model with *profiles* also takes
    the profile of the clip's camera: a vector of what is normal at that camera, see :mod:`deploy.profile`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=1, le=64)
    """Frames in a clip."""
    height_px: int = Field(ge=16, le=2048)
    width_px: int = Field(ge=16, le=2048)
    colour: Literal["gray", "bgr"] = "gray"
    fps: float = Field(default=10.0, gt=0, le=240)
    """Frames per second of the training footage. Cameras should match it, because motion is measured per frame."""
    state_shape: tuple[Side, Side, Side] | None = None
    """(C, h, w) of one camera's state, float32, zeros at first; None for a model without a state."""
    state_warmup_frames: int = Field(default=0, ge=0, le=600)
    """Number of frames after which a state no longer depends, up to rounding, on earlier frames; 0 without a state."""

    profile_size: int = Field(default=0, ge=0, le=51_200)
    """Number of float32 values of a camera's profile; 0 for a model that takes none."""

    @model_validator(mode="after")
    def _warmup_needs_state(self) -> "ClipSpec":
        if self.state_shape is None and self.state_warmup_frames:
            raise ValueError(f"state_warmup_frames must be 0 without a state_shape, got {self.state_warmup_frames}")
        return self

    @property
    def channels(self) -> int:
        return 1 if self.colour == "gray" else 3

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.height_px, self.width_px, self.channels)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C)."""
        return (self.length, *self.frame_shape)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs for one clip, by name, in order: ``clips``, then ``state`` and ``profile`` if there are any."""
        state = {} if self.state_shape is None else {"state": self.state_shape}
        return {"clips": self.clip_shape, **state, **({"profile": (self.profile_size,)} if self.profile_size else {})}

    @property
    def warmup_frames(self) -> int:
        """Number of frames that rebuild a camera's clip and state after a restart, before the next frame can be scored."""
        return self.length - 1 + self.state_warmup_frames
