"""PyTorch on an NVIDIA GPU: for machines with a GPU and without TensorRT. Channels last, one CUDA graph for each bucket."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from deploy.bundle import Bundle
from deploy.cuda.driver import CudaDriver, Driver, Launch
from deploy.cuda.engine import GpuEngine
from deploy.cuda.gpu import Gpu, find_gpu, import_torch
from deploy.cuda.slots import buckets_for, program_shapes
from deploy.engine import Options, Precision, backend_errors
from deploy.engines.torch import load_network
from deploy.spec import ClipSpec

BUCKETS = (1, 8, 32, 128)
"""Clips that are launched at once."""


class TorchCudaEngine(GpuEngine):
    """See :class:`deploy.engine.Engine`."""

    name = "torch-cuda"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._gpu = find_gpu(self.name)
        driver = CudaDriver(self.name)
        self._precision = options.precision
        network = load_network(bundle)
        with backend_errors(f"{self.name}: {bundle.path} cannot be loaded"):
            program = TorchProgram(network, bundle.spec, options.precision, driver)
            super().__init__(bundle.spec, options, driver, program, buckets_for(options.max_clips, BUCKETS))

    def describe(self) -> dict[str, str]:
        """See :meth:`deploy.engine.Engine.describe`."""
        return {
            "backend": self.name,
            "version": import_torch(self.name).__version__,
            **described(self._gpu),
            "precision": self._precision,
        }


class TorchProgram:
    """:class:`deploy.cuda.slots.Program` of a network. In ``f16`` its convolutions and products compute in half precision."""

    def __init__(self, network: Any, spec: ClipSpec, precision: Precision, driver: Driver) -> None:
        self._torch = import_torch("torch-cuda")
        self._device = driver.device
        self._half = precision == "f16"
        self._network = self._placed(network)
        with self._torch.inference_mode(), self._precision():
            clips = self._torch.zeros((1, *spec.clip_shape), dtype=self._torch.uint8, device=self._device)
            state = [] if spec.state_shape is None else [self._torch.zeros((1, *spec.state_shape), device=self._device)]
            _, heatmap, *_ = self._network(clips, *state)
        self._shapes = program_shapes(spec, tuple(heatmap.shape[1:]))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """See :meth:`deploy.cuda.slots.Program.shapes`."""
        return self._shapes

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        """See :meth:`deploy.cuda.slots.Program.launcher`."""
        given = [tensors[name][:bucket] for name in ("clips", "state") if name in tensors]
        taken = [tensors[name][:bucket] for name in ("score", "heatmap", "next_state") if name in tensors]

        def launch() -> None:
            with self._torch.inference_mode(), self._precision():
                for target, output in zip(taken, self._network(*given), strict=True):
                    target.copy_(output)

        return launch

    def _placed(self, network: Any) -> Any:
        from deploy.half import InHalf, in_half_weights

        placed: Any = in_half_weights(InHalf(network)) if self._half else network
        return placed.to(self._device, memory_format=self._torch.channels_last).eval()

    def _precision(self) -> Any:
        if not self._half:
            return nullcontext()
        # Weights are in half precision already, and a cache of casts does not outlive the capture of a graph.
        return self._torch.autocast(self._device.type, dtype=self._torch.float16, cache_enabled=False)


def described(gpu: Gpu) -> dict[str, str]:
    """A GPU in an engine's description."""
    return {"gpu": gpu.name, "compute_capability": gpu.compute_capability}
