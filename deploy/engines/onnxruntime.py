"""ONNX Runtime on the CPU."""

from typing import Any

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import CheckedEngine, Clips, EngineRequest, Scores, State, check_graph
from deploy.errors import backend_errors, missing_library

_LOG_ERRORS_ONLY = 3
_SPINNING = "session.intra_op.allow_spinning"


class OnnxEngine(CheckedEngine):
    """ONNX Runtime. ``graph`` replaces the bundle's graph, to try one that was made from it.

    With the performance hint "latency", threads spin while they wait for work, so that the next operator begins at once.
    """

    name = "onnx"

    def __init__(self, bundle: Bundle, request: EngineRequest, graph: bytes | None = None) -> None:
        super().__init__(bundle.spec, request.max_clips)
        self._onnxruntime = _import_onnxruntime()
        self._request = request
        with backend_errors(f"onnx: {bundle.path} cannot be loaded"):
            self._session = self._onnxruntime.InferenceSession(
                graph or bundle.file(ONNX_NAME), self._session_options(), providers=["CPUExecutionProvider"]
            )
            inputs, outputs = ({value.name: value.shape for value in values} for values in self._values())
        check_graph(bundle, inputs, outputs)
        self._outputs = ["score", "heatmap", *(name for name in outputs if name == "next_state")]
        self._description = self._read_back()

    def describe(self) -> dict[str, str]:
        """See :meth:`Engine.describe`."""
        return dict(self._description)

    def _values(self) -> tuple[Any, Any]:
        return self._session.get_inputs(), self._session.get_outputs()

    def _read_back(self) -> dict[str, str]:
        options = self._session.get_session_options()
        spins = options.get_session_config_entry(_SPINNING) == "1"
        return {
            "backend": self.name,
            "version": self._onnxruntime.__version__,
            "device": ",".join(self._session.get_providers()),
            # ONNX Runtime computes in the graph's own type.
            "precision": self._session.get_outputs()[0].type,
            "threads": str(options.intra_op_num_threads or "one a physical core"),
            "spinning": "on" if spins else "off",
            "performance_hint": "latency" if spins else "throughput",
        }

    def _session_options(self) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._request.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS_ONLY
        # Spinning threads keep cores busy between calls that the decoder could use.
        options.add_session_config_entry(_SPINNING, "1" if self._request.performance_hint == "latency" else "0")
        return options

    def _run(self, clips: Clips, state: State | None) -> Scores:
        inputs = {"clips": clips} if state is None else {"clips": clips, "state": state}
        return Scores(*self._session.run(self._outputs, inputs))

    def _release(self) -> None:
        del self._session


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]  # ships no py.typed
    except ImportError as error:
        raise missing_library("onnx", "onnx", error) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
