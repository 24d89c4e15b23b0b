"""Stands in for ``nvidia.nvimgcodec`` where there is no GPU: OpenCV decodes, and whatever can go wrong can be asked for.

PyTorch, which fits the images, gets a made-up device as well.

It has only members that the real library has, which a test checks where that is installed.
"""

import enum
import sys
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType, TracebackType
from typing import Any, Self

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

__version__ = "0.9.fake"

END = b"\xff\xd9"


class BackendKind(enum.Enum):
    CPU_ONLY = 1
    GPU_ONLY = 2
    HYBRID_CPU_GPU = 3
    HW_GPU_ONLY = 4


class ColorSpec(enum.Enum):
    SRGB = 1
    GRAY = 2


class SampleFormat(enum.Enum):
    I_Y = 4
    I_BGR = 10


class Backend:
    def __init__(self, backend_kind: BackendKind) -> None:
        self.backend_kind = backend_kind


class DecodeParams:
    def __init__(self, *, apply_exif_orientation: bool, color_spec: ColorSpec, sample_format: SampleFormat) -> None:
        self.apply_exif_orientation = apply_exif_orientation
        self.color_spec = color_spec
        self.sample_format = sample_format


class CodeStream:
    def __init__(self, encoded: bytes) -> None:
        if b"\xff\xda" not in encoded:
            raise RuntimeError("Failed to get image info")
        self.size = len(encoded)
        self._encoded = encoded


class Image:
    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        images.add(self)

    @property
    def __array_interface__(self) -> dict[str, object]:
        return dict(self._pixels.__array_interface__)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._pixels.shape

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return self._pixels.dtype


class Decoder:
    device_id = 0

    def __init__(self, *, max_num_cpu_threads: int, backends: Sequence[Backend], options: str) -> None:
        if not has_gpu:
            raise RuntimeError("CUDA Runtime failure: '#35' at device_utils.h:32")
        assert options == ":fancy_upsampling=1"
        assert BackendKind.CPU_ONLY not in {backend.backend_kind for backend in backends}
        assert max_num_cpu_threads > 0
        self._stream = driver.stream_handle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        calls.append(-1)

    def decode(self, streams: list[CodeStream], *, params: DecodeParams, cuda_stream: int) -> list[Image | None]:
        assert streams
        assert cuda_stream == self._stream
        calls.append(len(streams))
        if lost:
            raise RuntimeError("CUDA error: the launch failed")
        return [self._decoded(stream._encoded, params) for stream in streams]

    def _decoded(self, encoded: bytes, params: DecodeParams) -> Image | None:
        gray = (params.color_spec, params.sample_format) == (ColorSpec.GRAY, SampleFormat.I_Y)
        assert gray or (params.color_spec, params.sample_format) == (ColorSpec.SRGB, SampleFormat.I_BGR)
        assert not params.apply_exif_orientation
        if poisonous(encoded):
            raise RuntimeError("CUDA error: an image nobody foresaw")
        flag = (cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
        # With an end behind it OpenCV takes what was cut off, as a decoder may that asks less of its input.
        whole = encoded if encoded.endswith(END) else encoded + END
        image = None if declines(encoded) else cv2.imdecode(np.frombuffer(whole, np.uint8), flag)
        return None if image is None else Image(distort(image.reshape(*image.shape[:2], -1).astype(int)))


def nothing(encoded: bytes) -> bool:
    return False


def unchanged(image: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.clip(image, 0, 255).astype(np.uint8)


has_gpu = True
lost = False
driver: Any = None
"""The device that frames are fitted on."""
images: "weakref.WeakSet[Image]" = weakref.WeakSet()
"""Images whose memory is not given back yet."""
calls: list[int] = []
"""Images of each call; -1 when the decoder was freed."""
declines: Callable[[bytes], bool] = nothing
"""For which images None comes out."""
poisonous: Callable[[bytes], bool] = nothing
"""Which images make the whole call fail."""
distort: Callable[[NDArray[np.int64]], NDArray[np.uint8]] = unchanged
"""What becomes of a decoded image, (H, W, C)."""


def install(patch: pytest.MonkeyPatch) -> ModuleType:
    """Be ``nvidia.nvimgcodec`` until the patch is undone, with a GPU that does all that is asked of it."""
    module = sys.modules[__name__]
    parent = ModuleType("nvidia")
    parent.nvimgcodec = module  # type: ignore[attr-defined]  # that is how a package holds its modules
    patch.setitem(sys.modules, "nvidia", parent)
    patch.setitem(sys.modules, "nvidia.nvimgcodec", module)
    for name, value in {"has_gpu": True, "lost": False, "declines": nothing, "poisonous": nothing, "distort": unchanged}.items():
        patch.setattr(module, name, value)
    patch.setattr(module, "calls", [])
    patch.setattr(module, "images", weakref.WeakSet())
    patch.setattr(module, "driver", make_up_device(patch))
    return module


def make_up_device(patch: pytest.MonkeyPatch) -> Any:
    """From now on decoders fit frames on a :class:`~tests.harness.host_driver.HostDriver`, which is given back."""
    pytest.importorskip("torch", reason="frames are fitted by PyTorch: pip install 'oddsight[nvjpeg]'")
    from tests.harness.host_driver import HostDriver

    device = HostDriver()
    patch.setattr("deploy.gpu.nvjpeg.missing_cuda", lambda _torch: None)
    patch.setattr("deploy.gpu.nvjpeg.CudaDriver", lambda _name: device)
    return device
