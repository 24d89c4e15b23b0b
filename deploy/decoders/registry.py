"""The table of image decoders, and ``load_decoder``."""

from deploy.errors import ConfigError
from deploy.image import CpuDecoder, ImageDecoder
from deploy.spec import ClipSpec

DECODERS = ("cpu", "nvjpeg")
GPU_DECODERS = frozenset({"nvjpeg"})  # decoders whose frames can stay on the GPU


def load_decoder(name: str, spec: ClipSpec, threads: int, *, on_device: bool = False) -> ImageDecoder:
    """Start the decoder ``name`` with ``threads`` CPU threads, without any fallback.

    With ``on_device`` all frames are DeviceFrames, for an engine on the GPU; only ``GPU_DECODERS`` can do that.

    Raises:
        ConfigError: there is no such decoder, or its frames cannot stay on the GPU.
        DecoderUnavailable: a library is missing, or there is no GPU it can decode on.
    """
    if name not in DECODERS:
        raise ConfigError(f"decode.backend must be one of {', '.join(DECODERS)}, got {name!r}")
    if on_device and name not in GPU_DECODERS:
        decoders = ", ".join(GPU_DECODERS)
        raise ConfigError(f"decode.backend must be one of {decoders} for frames that stay on the GPU, got {name!r}")
    if name == CpuDecoder.name:
        return CpuDecoder(spec, threads)
    from deploy.decoders.nvjpeg import NvJpegDecoder

    return NvJpegDecoder(spec, threads, on_device=on_device)
