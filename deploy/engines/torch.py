"""PyTorch engines: ``torch`` on the CPU, the reference for all others, and ``torch-cuda`` for GPUs without TensorRT.

Here the network of a bundle is loaded, and converted to half precision: autocast decides which operations run in float16,
convolutions and matrix products. Networks cast their maps back to float32 before they subtract, square or sum them up to a score.
On the GPU tensors are channels last, and each bucket is one CUDA graph.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from importlib.metadata import entry_points
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from deploy.bundle import WEIGHTS_NAME, Bundle
from deploy.engine import CheckedEngine, EngineRequest, Inputs, Precision, Scores
from deploy.errors import BundleIncompatible, backend_errors
from deploy.gpu.driver import CudaDriver, Launch, find_gpu
from deploy.gpu.engine import INPUTS, OUTPUTS, GpuEngine, buckets_for, program_shapes
from deploy.spec import ClipSpec

NETWORKS_GROUP = "oddsight.networks"
"""Entry point group of network factories, by model kind. A factory takes the model card's ``config`` and returns a module.

Its ``forward`` maps clips uint8 (N, T, H, W, C) to scores float32 (N,) and heat maps float32 (N, h, w). If the spec has a state,
``forward(clips, state)`` also takes float32 (N, *state_shape) and returns the next state as a third value. If the spec has
profiles, ``forward`` takes those of the clips' cameras last, float32 (N, P).
"""

BUCKETS = (1, 8, 32, 128)

_thread_setting = threading.Lock()


class TorchEngine(CheckedEngine):
    """PyTorch on the CPU.

    ``request.threads`` is a setting of the whole process, so it is changed only during a call, and engines that change it take
    turns; 0 leaves it alone.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        super().__init__(bundle.spec, request.max_clips, bundle.default_profile)
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

    def _run(self, inputs: Inputs) -> Scores:
        with self._own_threads(), torch.inference_mode():
            # tensor() copies; from_numpy() would warn about arrays that are not writable.
            tensors = [torch.tensor(array) for array in inputs.values()]
            # Cloned, because a network may return the same memory twice, such as a view of its heat map as state.
            return Scores(*(output.clone().numpy() for output in self._network(*tensors)))

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
            buckets = buckets_for(request.max_clips, BUCKETS)
            super().__init__(bundle.spec, request, driver, program, buckets, bundle.default_profile)
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
            dtypes = {"clips": torch.uint8}
            inputs = [
                torch.zeros((1, *shape), dtype=dtypes.get(name), device=self._device) for name, shape in spec.input_shapes.items()
            ]
            _, heatmap, *_ = self._network(*inputs)
        self._shapes = program_shapes(spec, tuple(heatmap.shape[1:]))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        inputs = [tensors[name][:bucket] for name in INPUTS if name in tensors]
        targets = [tensors[name][:bucket] for name in OUTPUTS if name in tensors]

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


def load_network(bundle: Bundle) -> Any:
    """The bundle's network with its weights, on the CPU, in evaluation mode.

    Raises:
        BundleIncompatible: no network of its kind is installed.
        EngineFailed: it cannot be imported, or its weights do not fit.
    """
    kind, installed = bundle.manifest.model.kind, entry_points(group=NETWORKS_GROUP)
    if kind not in installed.names:
        kinds = ", ".join(sorted(installed.names)) or "none"
        raise BundleIncompatible(f"{bundle.path}: no network of kind {kind!r} is installed; installed kinds: {kinds}")
    with backend_errors(f"torch: the network {kind!r} cannot be imported"):
        factory = installed[kind].load()
    with backend_errors(f"torch: {bundle.path} cannot be loaded"):
        network = factory(bundle.manifest.model.config)
        network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)), strict=True)
        return network.eval()


class HalfPrecisionNetwork(nn.Module):
    """A copy of a network, to be exported or run under float16 autocast. Inputs and outputs stay float32.

    Batch norms are fused into the convolution or matrix product before them: the exporter would otherwise insert them with
    float32 weights on float16 maps.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).eval()
        for module in self.network.modules():
            if isinstance(module, nn.Sequential):
                _fuse_batch_norms(module)

    def forward(self, clips: Tensor, state: Tensor | None = None, profile: Tensor | None = None) -> tuple[Tensor, ...]:
        inputs = [values for values in (clips, state, profile) if values is not None]
        return tuple(result.float() for result in self.network(*inputs))


def cast_weights_to_half(network: nn.Module) -> nn.Module:
    """Cast the weights of convolutions and matrix products to float16, in place, so that autocast has nothing left to cast."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.half()
    return network


def _fuse_batch_norms(layers: nn.Sequential) -> None:
    for first in range(len(layers) - 1):
        layer, norm = layers[first], layers[first + 1]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if isinstance(layer, nn.Linear):
            layers[first] = fuse_linear_bn_eval(layer, norm)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layers[first] = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
        else:
            continue
        layers[first + 1] = nn.Identity()
