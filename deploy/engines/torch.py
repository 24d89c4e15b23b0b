"""PyTorch on an NVIDIA GPU: for machines with a GPU and without TensorRT. Channels last, one CUDA graph for each bucket.

PyTorch on the CPU: the reference that the other engines are compared with.

The network itself is found by its kind under the entry point group ``oddsight.networks``: a factory that takes the model
card's ``config`` and gives a module whose ``forward`` maps uint8 (N, T, H, W, C) to score (N,) and heat map (N, h, w). Where
the spec has a state, ``forward(clips, state)`` also takes float32 (N, *state_shape) and gives the next one as its third value.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from deploy.bundle import Bundle
from deploy.engine import CheckedEngine, Clips, EngineRequest, Precision, Scores, State
from deploy.errors import backend_errors, missing_library
from deploy.gpu.driver import CudaDriver, Driver, Gpu, Launch, find_gpu, import_torch
from deploy.gpu.engine import GpuEngine, buckets_for, program_shapes
from deploy.spec import ClipSpec

_thread_setting = threading.Lock()


class TorchEngine(CheckedEngine):
    """See :class:`deploy.engine.Engine`.

    There is nothing to set for latency or throughput besides threads.
    ``threads``: CPU threads; 0 leaves PyTorch's setting alone. That setting belongs to the whole process, so it is put in
    place for each call only and then put back, and engines that set it take turns.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        super().__init__(bundle.spec, request.max_clips)
        self._torch = _import_torch()
        self._threads = request.threads
        from deploy.network import load_network

        self._network = load_network(bundle)
        self._description = self._read_back()

    def describe(self) -> dict[str, str]:
        """See :meth:`Engine.describe`."""
        return dict(self._description)

    def _read_back(self) -> dict[str, str]:
        parameter = next(self._network.parameters())
        return {
            "backend": self.name,
            "version": self._torch.__version__,
            "device": str(parameter.device),
            "precision": str(parameter.dtype).removeprefix("torch."),
            "threads": str(self._threads or self._torch.get_num_threads()),
        }

    def _run(self, clips: Clips, state: State | None) -> Scores:
        with self._own_threads(), self._torch.inference_mode():
            # tensor() copies: from_numpy() would warn of arrays that cannot be written to.
            inputs = [self._torch.tensor(given) for given in (clips, state) if given is not None]
            # Cloned, because a network may give the same memory twice: a view of its heat map as state.
            return Scores(*(output.clone().numpy() for output in self._network(*inputs)))

    def _release(self) -> None:
        del self._network

    @contextmanager
    def _own_threads(self) -> Iterator[None]:
        if not self._threads:
            yield
            return
        with _thread_setting:
            before = self._torch.get_num_threads()
            self._torch.set_num_threads(self._threads)
            try:
                yield
            finally:
                self._torch.set_num_threads(before)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise missing_library("torch", "train", error) from error
    return torch


BUCKETS = (1, 8, 32, 128)
"""Clips that are launched at once."""


class TorchCudaEngine(GpuEngine):
    """See :class:`deploy.engine.Engine`."""

    name = "torch-cuda"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        self._gpu = find_gpu(self.name)
        driver = CudaDriver(self.name)
        self._precision = request.precision
        from deploy.network import load_network

        network = load_network(bundle)
        with backend_errors(f"{self.name}: {bundle.path} cannot be loaded"):
            program = TorchProgram(network, bundle.spec, request.precision, driver)
            super().__init__(bundle.spec, request, driver, program, buckets_for(request.max_clips, BUCKETS))

    def describe(self) -> dict[str, str]:
        """See :meth:`deploy.engine.Engine.describe`."""
        return {
            "backend": self.name,
            "version": import_torch(self.name).__version__,
            **described(self._gpu),
            "precision": self._precision,
        }


class TorchProgram:
    """:class:`deploy.gpu.engine.Program` of a network. In ``f16`` its convolutions and products compute in half precision."""

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
        """See :meth:`deploy.gpu.engine.Program.shapes`."""
        return self._shapes

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        """See :meth:`deploy.gpu.engine.Program.launcher`."""
        given = [tensors[name][:bucket] for name in ("clips", "state") if name in tensors]
        taken = [tensors[name][:bucket] for name in ("score", "heatmap", "next_state") if name in tensors]

        def launch() -> None:
            with self._torch.inference_mode(), self._precision():
                for target, output in zip(taken, self._network(*given), strict=True):
                    target.copy_(output)

        return launch

    def _placed(self, network: Any) -> Any:
        from deploy.network import InHalf, in_half_weights

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
