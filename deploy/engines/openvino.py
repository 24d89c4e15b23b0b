"""OpenVINO on the CPU: the default engine.

The graph is compiled for one clip, and the clips of a call run side by side, one on each stream. So a clip's score cannot depend
on its neighbours, and it is faster than one large batch, whose intermediate maps exceed the cache (measured: 7.4 instead of
10.1 ms of CPU a clip). With the performance hint "latency" there is one stream, and each clip runs on all threads.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import CheckedEngine, EngineRequest, Inputs, Precision, Scores, check_graph
from deploy.errors import EngineUnavailable, backend_errors, required_library

_CONVERTER = "openvino.tools.ovc"


class OpenVinoEngine(CheckedEngine):
    """OpenVINO. ``request.threads`` are shared among the streams."""

    name = "openvino"

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        super().__init__(bundle.spec, request.max_clips, bundle.default_profile)
        self._openvino = _import_openvino()
        with backend_errors(f"openvino: {bundle.path} cannot be loaded"):
            core = self._openvino.Core()
            model = core.read_model(bundle.file(ONNX_NAME))
            inputs = _shapes(model.inputs, {"clips", "state", "profile"})
            outputs = _shapes(model.outputs, {"score", "heatmap", "next_state"})
        check_graph(bundle, inputs, outputs)
        self._processor = _processor_for(core, request.precision)
        with backend_errors(f"openvino: {bundle.path} cannot be compiled"):
            model.reshape({name: [1, *sizes] for name, (_, *sizes) in inputs.items()})
            compiled = core.compile_model(model, "CPU", self._properties(request))
            self._queue = self._openvino.AsyncInferQueue(compiled)
            self._result_shapes = {name: tuple(compiled.output(name).shape)[1:] for name in outputs}
            self._description = self._describe_compiled(compiled)

    def _properties(self, request: EngineRequest) -> dict[Any, Any]:
        properties, hint = self._openvino.properties, self._openvino.properties.hint
        chosen = {
            # By default OpenVINO uses bfloat16 on CPUs that have it, which gives other scores than those of the calibration.
            hint.inference_precision: getattr(self._openvino.Type, request.precision),
            hint.performance_mode: getattr(hint.PerformanceMode, request.performance_hint.upper()),
            # With pinning, several services on one host would all use the same first cores.
            hint.enable_cpu_pinning: False,
        }
        return {**chosen, properties.inference_num_threads: request.threads} if request.threads else chosen

    def _describe_compiled(self, compiled: Any) -> dict[str, str]:
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

    def _run(self, inputs: Inputs) -> Scores:
        n_clips = len(inputs["clips"])
        results = {name: np.empty((n_clips, *shape), np.float32) for name, shape in self._result_shapes.items()}
        try:
            for index in range(n_clips):
                self._start(index, inputs, results)
        finally:
            # Running requests write into the results and must not outlive them.
            self._queue.wait_all()
        return Scores(results["score"], results["heatmap"], results.get("next_state"))

    def _start(self, index: int, inputs: Inputs, results: dict[str, NDArray[np.float32]]) -> None:
        """Start one clip on the next free request, which writes into the results without a copy (5 % of the time)."""
        request = self._queue[self._queue.get_idle_request_id()]
        for name, result in results.items():
            request.set_tensor(name, self._openvino.Tensor(result[index : index + 1], shared_memory=True))
        one = {name: values[index : index + 1] for name, values in inputs.items()}
        self._queue.start_async(one, share_inputs=True)

    def _release(self) -> None:
        del self._queue


def matmul(left: NDArray[np.float32], precision: str) -> Callable[[], object]:
    """A call that multiplies a square matrix by itself in ``precision``, to measure the processor's peak."""
    openvino = _import_openvino()
    parameter = openvino.op.Parameter(openvino.Type.f32, openvino.Shape(left.shape))
    product = openvino.opset13.matmul(parameter, openvino.op.Constant(left), transpose_a=False, transpose_b=False)
    properties = {openvino.properties.hint.inference_precision: getattr(openvino.Type, precision)}
    compiled = openvino.Core().compile_model(openvino.Model([product], [parameter]), "CPU", properties)
    request = compiled.create_infer_request()
    return lambda: request.infer([left])


def _processor_for(core: Any, precision: Precision) -> str:
    """The processor's name. Raises EngineUnavailable if it does not compute in ``precision``."""
    name: str = core.get_property("CPU", "FULL_DEVICE_NAME")
    # OpenVINO itself would use float32 without a message.
    if precision != "f32" and precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable(f"openvino: {name} does not compute in {precision}; use f32")
    return name


def _shapes(ports: Any, names: set[str]) -> dict[str, list[int | None]]:
    """Shapes by name, None for a dynamic size. Ports may have other names besides, which OpenVINO generates."""
    named = [(name, port.get_partial_shape()) for port in ports for name in port.get_names() if name in names]
    return {name: [size.get_length() if size.is_static else None for size in shape] for name, shape in named}


def _import_openvino() -> Any:
    """Import OpenVINO without its model converter, which sends a usage report when imported."""
    if _CONVERTER not in sys.modules:
        sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # None makes Python refuse the import
    try:
        with required_library("openvino", "stream"):
            import openvino  # type: ignore[import-untyped]  # ships no py.typed
    finally:
        if sys.modules[_CONVERTER] is None:
            del sys.modules[_CONVERTER]
    return openvino
