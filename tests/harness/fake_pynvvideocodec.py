"""A fake of ``PyNvVideoCodec`` for machines without a GPU: PyAV decodes, and frames have that library's interface.

It has only members that the real library has; a test checks this where the library can be imported.
"""

import enum
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import av
import numpy as np
import pytest
from numpy.typing import NDArray


class Pixel_Format(enum.Enum):  # noqa: N801  the library's own name
    NV12 = 1
    P016 = 3


class PacketData:
    def __init__(self, packet: av.Packet) -> None:
        self.bsl = packet.size
        self._packet = packet


class PyNvDemuxer:
    def __init__(self, filename: str) -> None:
        self._container = av.open(filename)
        self._stream = self._container.streams.video[0]

    def GetNvCodecId(self) -> str:  # noqa: N802  the library's own name, as below
        return self._stream.codec_context.name

    def GetTimebaseNum(self) -> int:  # noqa: N802  see above
        return self._stream.time_base.numerator if self._stream.time_base else 0

    def GetTimebaseDen(self) -> int:  # noqa: N802  see above
        return self._stream.time_base.denominator if self._stream.time_base else 0

    def __iter__(self) -> Iterator[PacketData]:
        return (PacketData(packet) for packet in self._container.demux(self._stream))


class DecodedFrame:
    def __init__(self, frame: av.VideoFrame, memory: NDArray[np.uint8]) -> None:
        self.format = layout
        self._pts = frame.pts
        self._memory = memory
        pixels = np.ascontiguousarray(distort(frame.reformat(format="nv12").to_ndarray()))
        memory[: pixels.size] = pixels.reshape(-1)
        self._size = pixels.size

    def getPTS(self) -> int:  # noqa: N802  see above
        return self._pts or 0

    def framesize(self) -> int:
        return self._size

    def GetPtrToPlane(self, plane: int) -> int:  # noqa: N802  see above
        assert plane == 0
        return int(self._memory.ctypes.data)


class PyNvDecoder:
    """Writes all frames to the same memory, as a decoder may."""

    def __init__(self) -> None:
        self._memory = np.zeros(1_000_000, np.uint8)
        self._size = (0, 0)

    def Decode(self, packet: PacketData) -> Iterator[DecodedFrame]:  # noqa: N802  see above
        if broken:
            raise RuntimeError("cuvidDecodePicture failed\nat NvDecoder.cpp:700")
        for frame in packet._packet.decode():
            assert isinstance(frame, av.VideoFrame)
            self._size = (frame.width, frame.height)
            yield DecodedFrame(frame, self._memory)

    def GetWidth(self) -> int:  # noqa: N802  see above
        return self._size[0]

    def GetHeight(self) -> int:  # noqa: N802  see above
        return self._size[1]


def CreateDemuxer(filename: str) -> PyNvDemuxer:  # noqa: N802  see above
    return PyNvDemuxer(filename)


def CreateDecoder(gpuid: int, codec: str, usedevicememory: bool) -> PyNvDecoder:  # noqa: N802  see above
    assert (gpuid, usedevicememory) == (0, False)
    assert codec == "h264"
    return PyNvDecoder()


def unchanged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


broken = False
layout = Pixel_Format.NV12
distort: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = unchanged
"""Changes a frame's memory, uint8 (H * 3 / 2, W)."""


def install(patch: pytest.MonkeyPatch) -> ModuleType:
    """Replace ``PyNvVideoCodec`` until the patch is undone."""
    module = sys.modules[__name__]
    patch.setitem(sys.modules, "PyNvVideoCodec", module)
    for name, value in {"broken": False, "layout": Pixel_Format.NV12, "distort": unchanged}.items():
        patch.setattr(module, name, value)
    return module
