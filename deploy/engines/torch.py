"""PyTorch engines: ``torch`` on the CPU, the reference for all others, and ``torch-cuda`` for GPUs without TensorRT.

On the GPU tensors are channels last, and each bucket is one CUDA graph.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from deploy.bundle import Bundle
from deploy.engine import CheckedEngine, Clips, EngineRequest, Precision, Scores, State
from deploy.errors import backend_errors
from deploy.gpu.driver import CudaDriver, Launch, find_gpu
from deploy.gpu.engine import GpuEngine, buckets_for, program_shapes
from deploy.network import HalfPrecisionNetwork, cast_weights_to_half, load_network
from deploy.spec import ClipSpec

BUCKETS = (1, 8, 32, 128)

_thread_setting = threading.Lock()


class TorchEngine(CheckedEngine):
    """PyTorch on the CPU.

    ``request.threads`` is a setting of the whole process, so it is changed only during a call, and engines that change it take
    turns; 0 leaves it alone.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        super().__init__(bundle.spec, request.max_clips)
        self._threads = request.threads
        self._network = load_network(bundle)
        parameter = next(self._network.parameters())
        self._description = {
            "backend": self.name,
            "version": torch.__version__,
            "device": str(parameter.device),
            "precision": str(parameter.dtype).removeprefix("torch."),
            "threads": str(self._threads or torch.get_num_threads()),
        }

    def _run(self, clips: Clips, state: State | None) -> Scores:
        with self._own_threads(), torch.inference_mode():
            # tensor() copies; from_numpy() would warn about arrays that are not writable.
            inputs = [torch.tensor(array) for array in (clips, state) if array is not None]
            # Cloned, because a network may return the same memory twice, such as a view of its heat map as state.
            return Scores(*(output.clone().numpy() for output in self._network(*inputs)))

    def _release(self) -> None:
        del self._network

    @contextmanager
    def _own_threads(self) -> Iterator[None]:
        if not self._threads:
            yield
            return
        with _thread_setting:
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                yield
            finally:
                torch.set_num_threads(before)


class TorchCudaEngine(GpuEngine):
    """PyTorch on an NVIDIA GPU."""

    name = "torch-cuda"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        gpu = find_gpu(self.name)
        driver = CudaDriver(self.name)
        network = load_network(bundle)
        with backend_errors(f"{self.name}: {bundle.path} cannot be loaded"):
            program = TorchProgram(network, bundle.spec, request.precision, driver)
            super().__init__(bundle.spec, request, driver, program, buckets_for(request.max_clips, BUCKETS))
        self._description = {
            "backend": self.name,
            "version": torch.__version__,
            "gpu": gpu.name,
            "compute_capability": gpu.compute_capability,
            "precision": request.precision,
        }


class TorchProgram:
    """:class:`deploy.gpu.engine.Program` of a network; in ``f16`` convolutions and matrix products run in half precision."""

    def __init__(self, network: Any, spec: ClipSpec, precision: Precision, driver: CudaDriver) -> None:
        self._device = driver.device
        self._half = precision == "f16"
        if self._half:
            network = cast_weights_to_half(HalfPrecisionNetwork(network))
        self._network = network.to(self._device, memory_format=torch.channels_last).eval()
        with torch.inference_mode(), self._precision():
            clips = torch.zeros((1, *spec.clip_shape), dtype=torch.uint8, device=self._device)
            state = [] if spec.state_shape is None else [torch.zeros((1, *spec.state_shape), device=self._device)]
            _, heatmap, *_ = self._network(clips, *state)
        self._shapes = program_shapes(spec, tuple(heatmap.shape[1:]))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        inputs = [tensors[name][:bucket] for name in ("clips", "state") if name in tensors]
        targets = [tensors[name][:bucket] for name in ("score", "heatmap", "next_state") if name in tensors]

        def launch() -> None:
            with torch.inference_mode(), self._precision():
                for target, output in zip(targets, self._network(*inputs), strict=True):
                    target.copy_(output)

        return launch

    def _precision(self) -> Any:
        if not self._half:
            return nullcontext()
        # Weights are in half precision already, and a cache of casts would not survive the capture of a graph.
        return torch.autocast(self._device.type, dtype=torch.float16, cache_enabled=False)
