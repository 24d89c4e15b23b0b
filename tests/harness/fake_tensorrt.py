"""TensorRT as a script: it takes any graph of ours, refuses what a test says it refuses, and computes on the CPU.

A plan of it is the graph itself, run by ONNX Runtime on the very memory that it is given addresses of. So what is around
TensorRT (profiles, contexts, addresses, buckets, slots) is held to the scores; of TensorRT itself it says nothing.
"""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

ORT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
LAYER_OF = {"Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY"}
LAYER_OF |= {"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE"}
TYPE_OF = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF"}


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class Flag(IntEnum):
    STRONGLY_TYPED = 1


class Memory(bytearray):
    """Readable as a buffer."""


class FakeTensorRt:
    """``refuse``: name of a call -> what it gives back instead; ``says``: what the log is told before."""

    __version__ = "11.4.0"
    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    NetworkDefinitionCreationFlag = Flag
    BuilderFlag = SimpleNamespace(TF32=0)
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    ProfilingVerbosity = SimpleNamespace(DETAILED=2)
    ExecutionContextAllocationStrategy = SimpleNamespace(STATIC=0)

    def __init__(self, refuse: dict[str, object] | None = None, says: str = "out of luck") -> None:
        self.refuse, self.says = refuse or {}, says
        self.calls: list[tuple[Any, ...]] = []
        self.logger: Any = None

    def answer(self, call: str, value: Any, *seen: Any) -> Any:
        self.calls.append((call, *seen))
        if call not in self.refuse:
            return value
        self.logger.log(Severity.ERROR, self.says)
        self.logger.log(Severity.INFO, "chatter")
        return self.refuse[call]

    def Builder(self, logger: Any) -> "Builder":  # noqa: N802  NVIDIA's name
        self.logger = logger
        return Builder(self)

    def OnnxParser(self, network: "Network", logger: Any) -> "Parser":  # noqa: N802  NVIDIA's name
        return Parser(self, network)

    def Runtime(self, logger: Any) -> "Runtime":  # noqa: N802  NVIDIA's name
        self.logger = logger
        return Runtime(self)


class Network:
    def __init__(self) -> None:
        self.name = ""
        self.graph = b""
        self.inputs: list[Any] = []
        self.layers: list[Any] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_layer(self, index: int) -> Any:
        return self.layers[index]


class Parser:
    def __init__(self, library: FakeTensorRt, network: Network) -> None:
        self._library, self._network = library, network
        self.num_errors = 1

    def parse(self, model: bytes) -> bool:
        if not self._library.answer("parse", True):  # noqa: FBT003  a refusal of the library is a False
            return False
        parsed = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*parsed.value_info, *parsed.output)}
        self._network.graph = model
        self._network.inputs = [
            SimpleNamespace(name=value.name, shape=(-1, *(size.dim_value for size in value.type.tensor_type.shape.dim[1:])))
            for value in parsed.input
        ]
        self._network.layers = [layer(node, types) for node in parsed.node]
        return True

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "unsupported operator", node_name=lambda: "node_7")


def layer(node: Any, types: dict[str, int]) -> Any:
    output = SimpleNamespace(name=node.output[0], dtype=SimpleNamespace(name=TYPE_OF.get(types.get(node.output[0], 0), "OTHER")))
    kind = SimpleNamespace(name=LAYER_OF.get(node.op_type, "OTHER"))
    given = [SimpleNamespace(name=name) for name in node.input]
    return SimpleNamespace(
        name=node.name, type=kind, num_inputs=len(given), get_input=given.__getitem__, get_output=lambda _index: output
    )


class Profile:
    def __init__(self, library: FakeTensorRt) -> None:
        self._library = library
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = list(shapes)

    def get_shape(self, name: str) -> Sequence[tuple[int, ...]]:
        shapes: Sequence[tuple[int, ...]] = self._library.answer("get_shape", self.shapes.get(name, []))
        return shapes


class Config:
    def __init__(self, library: FakeTensorRt) -> None:
        self._library = library
        self.profiles: list[Profile] = []
        self.progress_monitor: Any = None
        self._cache: Any = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._library.calls.append(("set_memory_pool_limit", pool_size))

    def clear_flag(self, flag: Any) -> None:
        self._library.calls.append(("clear_flag", flag))

    def create_timing_cache(self, content: bytes) -> Any:
        self._library.calls.append(("create_timing_cache", content))
        return SimpleNamespace(serialize=lambda: Memory(b"timed " + content))

    def set_timing_cache(self, cache: Any, *, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._library.answer("get_timing_cache", self._cache)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        index: int = self._library.answer("add_optimization_profile", len(self.profiles) - 1, dict(profile.shapes))
        return index


class Builder:
    def __init__(self, library: FakeTensorRt) -> None:
        self._library = library

    def create_network(self, flags: int) -> Any:
        return self._library.answer("create_network", Network(), flags)

    def create_builder_config(self) -> Any:
        return self._library.answer("create_builder_config", Config(self._library))

    def create_optimization_profile(self) -> Any:
        return self._library.answer("create_optimization_profile", Profile(self._library))

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        config.progress_monitor.phase_start("all", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("all", step):
                return None
        config.progress_monitor.phase_finish("all")
        return self._library.answer("build_serialized_network", Memory(network.graph))


class Runtime:
    def __init__(self, library: FakeTensorRt) -> None:
        self._library = library

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return self._library.answer("deserialize_cuda_engine", Engine(self._library, plan))


class Engine:
    def __init__(self, library: FakeTensorRt, plan: bytes) -> None:
        self._library = library
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in {**self.inputs, **self.outputs}[name].shape)

    def create_execution_context(self, strategy: Any) -> Any:
        return self._library.answer("create_execution_context", Context(self._library, self))


class Context:
    def __init__(self, library: FakeTensorRt, engine: Engine) -> None:
        self._library, self._engine = library, engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> Any:
        return self._library.answer("set_optimization_profile_async", True, profile)  # noqa: FBT003  a refusal of the library is a False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> Any:
        self._shapes[name] = shape
        return self._library.answer("set_input_shape", True)  # noqa: FBT003  a refusal of the library is a False

    def set_tensor_address(self, name: str, address: int) -> Any:
        self._addresses[name] = address
        return self._library.answer("set_tensor_address", True)  # noqa: FBT003  a refusal of the library is a False

    def infer_shapes(self) -> Any:
        return self._library.answer("infer_shapes", [])

    def execute_async_v3(self, stream: int) -> Any:
        given = {name: self._memory(name, shape, self._engine.inputs[name].type) for name, shape in self._shapes.items()}
        for name, values in zip(self._engine.outputs, self._engine.session.run(None, given), strict=True):
            self._memory(name, values.shape, "tensor(float)")[...] = values
        return self._library.answer("execute_async_v3", True, next(iter(self._shapes.values()))[0])  # noqa: FBT003  a refusal of the library is a False

    def _memory(self, name: str, shape: tuple[int, ...], kind: str) -> Any:
        wanted = np.dtype(ORT_TYPES[kind])
        content = (ctypes.c_char * (int(np.prod(shape)) * wanted.itemsize)).from_address(self._addresses[name])
        return np.frombuffer(content, wanted).reshape(shape)
