"""PyTorch on the CPU: the reference that the other engines are compared with.

The network itself is found by its kind under the entry point group ``oddsight.networks``: a factory that takes the model
card's ``config`` and gives a module whose ``forward`` maps uint8 (N, T, H, W, C) to score (N,) and heat map (N, h, w). Where
the spec has a state, ``forward(clips, state)`` also takes float32 (N, *state_shape) and gives the next one as its third value.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from deploy.bundle import WEIGHTS_NAME, Bundle
from deploy.engine import CheckedEngine, Clips, Scores, State, backend_errors, missing_library
from deploy.errors import BundleIncompatible

NETWORKS_GROUP = "oddsight.networks"

_thread_setting = threading.Lock()


class TorchEngine(CheckedEngine):
    """See :class:`deploy.engine.Engine`.

    There is nothing to set for latency or throughput besides threads.
    ``threads``: CPU threads; 0 leaves PyTorch's setting alone. That setting belongs to the whole process, so it is put in
    place for each call only and then put back, and engines that set it take turns.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, *, max_clips: int, threads: int) -> None:
        super().__init__(bundle.spec, max_clips)
        self._torch = _import_torch()
        self._threads = threads
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


def _network_factory(bundle: Bundle) -> Any:
    kind = bundle.manifest.model.kind
    installed = entry_points(group=NETWORKS_GROUP)
    if kind not in installed.names:
        known = ", ".join(sorted(installed.names)) or "none"
        raise BundleIncompatible(f"{bundle.path}: no network of kind {kind!r} is installed; installed kinds: {known}")
    with backend_errors(f"torch: the network {kind!r} cannot be imported"):
        return installed[kind].load()


def load_network(bundle: Bundle) -> Any:
    """The bundle's network with its weights, on the CPU, for serving.

    Raises:
        BundleIncompatible: no network of its kind is installed.
        EngineFailed: it cannot be imported, or takes no such weights.
    """
    from safetensors.torch import load_file

    factory = _network_factory(bundle)
    with backend_errors(f"torch: {bundle.path} cannot be loaded"):
        network = factory(bundle.manifest.model.config)
        network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)), strict=True)
        return network.eval()


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise missing_library("torch", "train", error) from error
    return torch
