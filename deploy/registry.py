"""Engines and image decoders by name: what there is, and how it is loaded. A backend is imported only when it is loaded."""

from collections.abc import Callable

from deploy.bundle import Bundle
from deploy.engine import Engine, EngineRequest, Precision
from deploy.errors import ConfigError, required_library
from deploy.image import CpuDecoder, ImageDecoder
from deploy.spec import ClipSpec


def load_engine(bundle: Bundle, request: EngineRequest) -> Engine:
    """Load the requested engine, without any fallback.

    The engine is not validated: to serve, use :func:`deploy.validation.admission.load_validated`.

    Raises:
        ConfigError: there is no such engine, or it never computes in the requested precision.
        EngineUnavailable: its library is missing or does not run here, or the processor lacks the precision.
        EngineFailed: the backend refuses the model.
    """
    name, precision = request.engine, request.precision
    if name not in ENGINES:
        raise ConfigError(f"engine.backend must be one of {', '.join(ENGINES)}, got {name!r}")
    if precision not in PRECISIONS[name]:
        raise ConfigError(f"engine.precision must be one of {', '.join(PRECISIONS[name])} with {name}, got {precision!r}")
    return ENGINES[name](bundle, request)


def _load_on_cpu(bundle: Bundle, request: EngineRequest) -> Engine:
    from deploy.engines.onnxruntime import OnnxEngine
    from deploy.engines.openvino import OpenVinoEngine

    return OnnxEngine(bundle, request) if request.engine == "onnx" else OpenVinoEngine(bundle, request)


def _load_torch(bundle: Bundle, request: EngineRequest) -> Engine:
    with required_library(request.engine, "train"):
        from deploy.engines.torch import TorchCudaEngine, TorchEngine
    return TorchCudaEngine(bundle, request) if request.engine in GPU_ENGINES else TorchEngine(bundle, request)


def _load_tensorrt(bundle: Bundle, request: EngineRequest) -> Engine:
    from deploy.engines.tensorrt import TensorRtEngine

    return TensorRtEngine(bundle, request)


ENGINES: dict[str, Callable[[Bundle, EngineRequest], Engine]] = {
    "openvino": _load_on_cpu,
    "onnx": _load_on_cpu,
    "torch": _load_torch,
    "torch-cuda": _load_torch,
    "tensorrt": _load_tensorrt,
    "tensorrt-rtx": _load_tensorrt,
}

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "openvino": ("f32", "bf16"),
    "onnx": ("f32",),
    "torch": ("f32",),
    "torch-cuda": ("f32", "f16"),
    "tensorrt": ("f32", "f16", "int8"),
    "tensorrt-rtx": ("f32", "f16", "int8"),
}
"""Precisions of each engine. The first works on any hardware that the engine runs on."""

TUNABLE_ENGINES = frozenset({"openvino", "onnx"})  # engines that follow EngineRequest.performance_hint

GPU_ENGINES = frozenset({"torch-cuda", "tensorrt", "tensorrt-rtx"})  # they compute on an NVIDIA GPU, the others on the CPU

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
    from deploy.gpu.nvjpeg import NvJpegDecoder

    return NvJpegDecoder(spec, threads, on_device=on_device)
