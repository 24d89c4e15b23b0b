"""OpenVINO on the CPU: the default engine.

The graph is compiled for one clip, and the clips of a call run side by side, one to a stream. So a clip's score cannot
depend on its neighbours, and it is faster than one large batch (measured: 7.4 ms of CPU a clip against 10.1 ms), whose
intermediate maps leave the cache. Set for latency there is one stream: clips run one after the other, each on all threads.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import CheckedEngine, Clips, EngineRequest, Precision, Scores, State, check_graph
from deploy.errors import EngineUnavailable, backend_errors, missing_library

_CONVERTER = "openvino.tools.ovc"


class OpenVinoEngine(CheckedEngine):
    """See :class:`deploy.engine.Engine`. ``threads``: CPU threads, shared out among the streams; 0: OpenVINO chooses."""

    name = "openvino"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        super().__init__(bundle.spec, request.max_clips)
        self._openvino = _import_openvino()
        with backend_errors(f"openvino: {bundle.path} cannot be loaded"):
            core = self._openvino.Core()
            model = core.read_model(bundle.file(ONNX_NAME))
            inputs = _shapes(model.inputs, {"clips", "state"})
            outputs = _shapes(model.outputs, {"score", "heatmap", "next_state"})
        check_graph(bundle, inputs, outputs)
        self._processor = _require(core, request.precision)
        with backend_errors(f"openvino: {bundle.path} cannot be compiled"):
            model.reshape({name: [1, *sizes] for name, (_, *sizes) in inputs.items()})
            compiled = core.compile_model(model, "CPU", self._properties(request))
            self._queue = self._openvino.AsyncInferQueue(compiled)
            self._result_shapes = {name: tuple(compiled.output(name).shape)[1:] for name in outputs}
            self._description = self._read_back(compiled)

    def describe(self) -> dict[str, str]:
        """See :meth:`Engine.describe`."""
        return dict(self._description)

    def _read_back(self, compiled: Any) -> dict[str, str]:
        properties = self._openvino.properties
        return {
            "backend": self.name,
            "version": self._openvino.get_version(),
            "device": ",".join(compiled.get_property(properties.execution_devices)),
            "processor": self._processor,
            "precision": compiled.get_property(properties.hint.inference_precision).to_string(),
            "threads": str(compiled.get_property(properties.inference_num_threads)),
            "streams": str(compiled.get_property(properties.streams.num)),
            "performance_hint": str(compiled.get_property(properties.hint.performance_mode)).lower(),
        }

    def _properties(self, request: EngineRequest) -> dict[Any, Any]:
        properties, hint = self._openvino.properties, self._openvino.properties.hint
        chosen = {
            # Left alone, OpenVINO takes bfloat16 on CPUs that have it: other scores than those of the calibration.
            hint.inference_precision: getattr(self._openvino.Type, request.precision),
            hint.performance_mode: getattr(hint.PerformanceMode, request.performance_hint.upper()),
            # Pinned, several services on one host would all sit on the same first cores.
            hint.enable_cpu_pinning: False,
        }
        return {**chosen, properties.inference_num_threads: request.threads} if request.threads else chosen

    def _run(self, clips: Clips, state: State | None) -> Scores:
        given: dict[str, NDArray[Any]] = {"clips": clips} if state is None else {"clips": clips, "state": state}
        results = {name: np.empty((len(clips), *shape), np.float32) for name, shape in self._result_shapes.items()}
        try:
            for index in range(len(clips)):
                self._start(index, given, results)
        finally:
            # Requests on their way write into the results: whatever happens, they must not outlive them.
            self._queue.wait_all()
        return Scores(results["score"], results["heatmap"], results.get("next_state"))

    def _start(self, index: int, given: dict[str, NDArray[Any]], results: dict[str, NDArray[np.float32]]) -> None:
        """Start one clip on the next request that is free. It writes where the result belongs: a copy would cost 5 %."""
        request = self._queue[self._queue.get_idle_request_id()]
        for name, result in results.items():
            request.set_tensor(name, self._openvino.Tensor(result[index : index + 1], shared_memory=True))
        one = {name: values[index : index + 1] for name, values in given.items()}
        self._queue.start_async(one, share_inputs=True)

    def _release(self) -> None:
        del self._queue


def matmul(left: NDArray[np.float32], precision: str) -> Callable[[], object]:
    """The product of a square matrix with itself in some precision, to be called again and again: a measure of the hardware."""
    openvino = _import_openvino()
    core = openvino.Core()
    given = openvino.op.Parameter(openvino.Type.f32, openvino.Shape(left.shape))
    product = openvino.opset13.matmul(given, openvino.op.Constant(left), transpose_a=False, transpose_b=False)
    hint = openvino.properties.hint
    compiled = core.compile_model(
        openvino.Model([product], [given]), "CPU", {hint.inference_precision: getattr(openvino.Type, precision)}
    )
    request = compiled.create_infer_request()
    return lambda: request.infer([left])


def _require(core: Any, precision: Precision) -> str:
    """The processor's name, if it computes in ``precision`` by itself: elsewhere OpenVINO would take float32 without a word."""
    name: str = core.get_property("CPU", "FULL_DEVICE_NAME")
    if precision != "f32" and precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable(f"openvino: {name} does not compute in {precision}; use f32")
    return name


def _shapes(ports: Any, names: set[str]) -> dict[str, list[int | None]]:
    """Sizes by name, None where a size is free; a port may have names of OpenVINO's own besides."""
    named = [(name, port.get_partial_shape()) for port in ports for name in port.get_names() if name in names]
    return {name: [size.get_length() if size.is_static else None for size in shape] for name, shape in named}


def _import_openvino() -> Any:
    """Import OpenVINO without its model converter, which sends a usage report to its maker when imported."""
    if _CONVERTER not in sys.modules:
        sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # None is Python's own mark for "not to be imported"
    try:
        import openvino  # type: ignore[import-untyped]  # ships no py.typed
    except ImportError as error:
        raise missing_library("openvino", "stream", error) from error
    finally:
        if sys.modules[_CONVERTER] is None:
            del sys.modules[_CONVERTER]
    return openvino
