"""The table of image decoders, ``load_decoder``, and the decoder on the CPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, overload

from deploy.errors import BadFrame, ConfigError
from deploy.image import OPENCV_VERSION, AnyFrame, DecodedFrame, Frame, ImageDecoder, decode_image
from deploy.spec import ClipSpec


class CpuDecoder:
    """An :class:`ImageDecoder` on ``threads`` threads: OpenCV releases the interpreter lock while it decodes."""

    name = "cpu"

    def __init__(self, spec: ClipSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")

    def decode(self, images: Sequence[bytes]) -> list[DecodedFrame[Frame] | BadFrame]:
        return list(self._pool.map(self._decode_one, images))

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, "version": f"OpenCV {OPENCV_VERSION}", "device": "CPU", "threads": str(self._threads)}

    def close(self) -> None:
        self._pool.shutdown()

    def _decode_one(self, image: bytes) -> DecodedFrame[Frame] | BadFrame:
        try:
            return decode_image(image, self._spec)
        except BadFrame as error:
            return error


@overload
def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: Literal[False] = False) -> ImageDecoder[Frame]: ...


@overload
def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: bool) -> ImageDecoder[AnyFrame]: ...


def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: bool = False) -> ImageDecoder[AnyFrame]:
    """Start the decoder ``name`` with ``threads`` CPU threads, without any fallback.

    With ``on_device`` all frames are DeviceFrames, for an engine on the GPU; only ``GPU_DECODERS`` can do that.

    Raises:
        ConfigError: there is no such decoder, or its frames cannot stay on the GPU.
        DecoderUnavailable: a library is missing, or there is no GPU it can decode on.
    """
    if name not in DECODERS:
        raise ConfigError(f"decode.backend must be one of {', '.join(DECODERS)}, got {name!r}")
    if on_device and name not in GPU_DECODERS:
        raise ConfigError(
            f"decode.backend must be one of {', '.join(GPU_DECODERS)} for frames that stay on the GPU, got {name!r}"
        )
    return DECODERS[name](spec, threads, on_device)


def _load_cpu(spec: ClipSpec, threads: int, _: bool) -> ImageDecoder[AnyFrame]:
    return CpuDecoder(spec, threads)


def _load_nvjpeg(spec: ClipSpec, threads: int, on_device: bool) -> ImageDecoder[AnyFrame]:
    from deploy.decoders.nvjpeg import NvJpegDecoder

    return NvJpegDecoder(spec, threads, on_device=on_device)


DECODERS: dict[str, Callable[[ClipSpec, int, bool], ImageDecoder[AnyFrame]]] = {"cpu": _load_cpu, "nvjpeg": _load_nvjpeg}
GPU_DECODERS = frozenset({"nvjpeg"})
"""Decoders whose frames can stay on the GPU."""
