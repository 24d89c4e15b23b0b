"""The table of engines, and ``load_engine``."""

from collections.abc import Callable

from deploy.bundle import Bundle
from deploy.engine import DEFAULT_MAX_CLIPS, Engine, Options, Precision, Tune
from deploy.errors import ConfigError


def load_engine(
    bundle: Bundle,
    name: str,
    *,
    precision: Precision = "f32",
    max_clips: int = DEFAULT_MAX_CLIPS,
    threads: int = 0,
    tune: Tune = "throughput",
    cameras: int = 0,
) -> Engine:
    """Load ``bundle`` into the engine called ``name``, one of ``ENGINES``. Nothing else is ever tried.

    ``precision``: ``f32``, or what else of ``PRECISIONS`` the hardware has. ``threads``: CPU threads for one call; 0 leaves it to
    the backend. ``tune``: what threads and streams are set for; nothing changes where the engine is not one of ``TUNABLE``.
    ``cameras``: how many cameras' frames and states may stay on the device; an engine that keeps none leaves it aside, ask
    :func:`resident`.
    Whether the engine may be put to work is another question, see :mod:`deploy.validation.admission`.

    Raises:
        ConfigError: no engine has that name, or it never computes in that precision.
        EngineUnavailable: its library is missing or does not run here, or this processor lacks the precision.
        EngineFailed: the backend refuses the model.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine.backend must be one of {', '.join(ENGINES)}, got {name!r}")
    if precision not in PRECISIONS[name]:
        raise ConfigError(f"engine.precision must be one of {', '.join(PRECISIONS[name])} with {name}, got {precision!r}")
    return ENGINES[name](bundle, Options(precision, max_clips, threads, tune, cameras))


def _load_openvino(bundle: Bundle, options: Options) -> Engine:
    from deploy.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(bundle, options)


def _load_onnx(bundle: Bundle, options: Options) -> Engine:
    from deploy.engines.onnxruntime import OnnxEngine

    return OnnxEngine(bundle, max_clips=options.max_clips, threads=options.threads, tune=options.tune)


def _load_torch(bundle: Bundle, options: Options) -> Engine:
    from deploy.engines.torch import TorchEngine

    return TorchEngine(bundle, max_clips=options.max_clips, threads=options.threads)


def _load_torch_cuda(bundle: Bundle, options: Options) -> Engine:
    from deploy.engines.torch import TorchCudaEngine

    return TorchCudaEngine(bundle, options)


def _load_tensorrt(bundle: Bundle, options: Options) -> Engine:
    from deploy.engines.tensorrt import TensorRtEngine

    return TensorRtEngine(bundle, "tensorrt", options)


def _load_tensorrt_rtx(bundle: Bundle, options: Options) -> Engine:
    from deploy.engines.tensorrt import TensorRtEngine

    return TensorRtEngine(bundle, "tensorrt-rtx", options)


ENGINES: dict[str, Callable[[Bundle, Options], Engine]] = {
    "openvino": _load_openvino,
    "onnx": _load_onnx,
    "torch": _load_torch,
    "torch-cuda": _load_torch_cuda,
    "tensorrt": _load_tensorrt,
    "tensorrt-rtx": _load_tensorrt_rtx,
}


PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "openvino": ("f32", "bf16"),
    "onnx": ("f32",),
    "torch": ("f32",),
    "torch-cuda": ("f32", "f16"),
    "tensorrt": ("f32", "f16", "int8"),
    "tensorrt-rtx": ("f32", "f16", "int8"),
}
"""Engine -> what it can compute in, given the hardware; the first needs none in particular."""


TUNABLE = frozenset({"openvino", "onnx"})
"""Engines that ``tune`` makes a difference to; the others have nothing to set besides threads."""


ON_GPU = frozenset({"torch-cuda", "tensorrt", "tensorrt-rtx"})
"""Engines that compute on an NVIDIA GPU; the others compute on the CPU."""


DEFAULT_ENGINE = "openvino"
