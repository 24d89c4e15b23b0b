"""The table of image decoders, and ``load_decoder``."""

from collections.abc import Callable
from typing import Literal, overload

from deploy.decoders.cpu import CpuDecoder
from deploy.errors import ConfigError
from deploy.image import AnyFrame, Frame, ImageDecoder
from deploy.spec import ClipSpec


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
