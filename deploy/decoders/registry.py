"""Many pictures to frames at once: the ``PictureDecoder`` protocol, the decoder on the CPU, and ``load_decoder``."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, overload

from deploy.errors import BadFrame, ConfigError
from deploy.image import OPENCV_VERSION, AnyFrame, DecodedFrame, Frame, PictureDecoder, decode_picture
from deploy.spec import ClipSpec


class CpuDecoder:
    """See :class:`PictureDecoder`. Decodes on a few threads: OpenCV releases the interpreter lock while it decodes."""

    name = "cpu"

    def __init__(self, spec: ClipSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")

    def decode(self, pictures: Sequence[bytes]) -> list[DecodedFrame[Frame] | BadFrame]:
        """See :meth:`PictureDecoder.decode`."""
        return list(self._pool.map(self._decode_one, pictures))

    def describe(self) -> dict[str, str]:
        """See :meth:`PictureDecoder.describe`."""
        return {"backend": self.name, "version": f"OpenCV {OPENCV_VERSION}", "device": "CPU", "threads": str(self._threads)}

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _decode_one(self, picture: bytes) -> DecodedFrame[Frame] | BadFrame:
        try:
            return decode_picture(picture, self._spec)
        except BadFrame as error:
            return error


@overload
def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: Literal[False] = False) -> PictureDecoder[Frame]: ...


@overload
def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: bool) -> PictureDecoder[AnyFrame]: ...


def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: bool = False) -> PictureDecoder[AnyFrame]:
    """Start the decoder called ``name``: ``cpu`` or ``nvjpeg``, with ``threads`` CPU threads. Nothing else is ever tried.

    ``on_device``: every frame is a DeviceFrame, for an engine on the GPU; only decoders of ``STAY_ON_DEVICE`` can do that.

    Raises:
        ConfigError: no decoder has that name, or its frames do not lie on a GPU.
        DecoderUnavailable: a library is missing, or finds no GPU it can decode on.
    """
    if name not in DECODERS:
        raise ConfigError(f"decode.backend must be one of {', '.join(DECODERS)}, got {name!r}")
    if on_device and name not in STAY_ON_DEVICE:
        raise ConfigError(
            f"decode.backend must be one of {', '.join(STAY_ON_DEVICE)} for frames that stay on the GPU, got {name!r}"
        )
    return DECODERS[name](spec, threads, on_device)


def _load_cpu(spec: ClipSpec, threads: int, _: bool) -> PictureDecoder[AnyFrame]:
    return CpuDecoder(spec, threads)


def _load_nvjpeg(spec: ClipSpec, threads: int, on_device: bool) -> PictureDecoder[AnyFrame]:
    from deploy.decoders.nvjpeg import NvJpegDecoder

    return NvJpegDecoder(spec, threads, on_device=on_device)


DECODERS: dict[str, Callable[[ClipSpec, int, bool], PictureDecoder[AnyFrame]]] = {"cpu": _load_cpu, "nvjpeg": _load_nvjpeg}
STAY_ON_DEVICE = frozenset({"nvjpeg"})
"""Decoders whose frames can stay on the GPU."""
