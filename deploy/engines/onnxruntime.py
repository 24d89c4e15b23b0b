"""ONNX Runtime on the CPU."""

from typing import Any

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import CheckedEngine, EngineRequest, Inputs, Scores, check_graph
from deploy.errors import backend_errors, required_library

_LOG_ERRORS_ONLY = 3
_SPINNING = "session.intra_op.allow_spinning"


class OnnxEngine(CheckedEngine):
    """ONNX Runtime. ``graph`` replaces the bundle's graph, to try one that was made from it."""

    name = "onnx"

    def __init__(self, bundle: Bundle, request: EngineRequest, graph: bytes | None = None) -> None:
        super().__init__(bundle.spec, request.max_clips, bundle.default_profile)
        self._onnxruntime = _import_onnxruntime()
        with backend_errors(f"onnx: {bundle.path} cannot be loaded"):
            self._session = self._onnxruntime.InferenceSession(
                graph or bundle.file(ONNX_NAME), self._session_options(request), providers=["CPUExecutionProvider"]
            )
            inputs = {value.name: value.shape for value in self._session.get_inputs()}
            outputs = {value.name: value.shape for value in self._session.get_outputs()}
        check_graph(bundle, inputs, outputs)
        self._outputs = ["score", "heatmap", *(name for name in outputs if name == "next_state")]
        self._description = self._describe_session()

    def _session_options(self, request: EngineRequest) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS_ONLY
        # Spinning threads start the next operator at once, but occupy cores between calls that the decoder could use.
        options.add_session_config_entry(_SPINNING, "1" if request.performance_hint == "latency" else "0")
        return options

    def _describe_session(self) -> dict[str, str]:
        options = self._session.get_session_options()
        spins = options.get_session_config_entry(_SPINNING) == "1"
        return {
            "backend": self.name,
            "version": self._onnxruntime.__version__,
            "device": ",".join(self._session.get_providers()),
            "precision": self._session.get_outputs()[0].type,  # ONNX Runtime computes in the graph's own type
            "threads": str(options.intra_op_num_threads or "one a physical core"),
            "spinning": "on" if spins else "off",
            "performance_hint": "latency" if spins else "throughput",
        }

    def _run(self, inputs: Inputs) -> Scores:
        return Scores(*self._session.run(self._outputs, inputs))

    def _release(self) -> None:
        del self._session


def _import_onnxruntime() -> Any:
    with required_library("onnx", "onnx"):
        import onnxruntime  # type: ignore[import-untyped]  # ships no py.typed
    onnxruntime.disable_telemetry_events()
    return onnxruntime
