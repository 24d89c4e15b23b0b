"""The real modules of NVIDIA: every member that is in use is there, and nothing of them is touched that ends the process.

``tensorrt_lean`` is the half of TensorRT 11 that runs plans, ``tensorrt_rtx`` builds as well; without a GPU neither runs any.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from deploy.bundle import DEFAULT_BUNDLE
from deploy.engines import tensorrt as members

BUILDS = {
    members.Builder: "Builder",
    members.BuilderConfig: "IBuilderConfig",
    members.Network: "INetworkDefinition",
    members.Layer: "ILayer",
    members.Tensor: "ITensor",
    members.Parser: "OnnxParser",
    members.ParserError: "ParserError",
    members.Profile: "IOptimizationProfile",
    members.TimingCache: "ITimingCache",
}
RUNS = {
    members.Runtime: "Runtime",
    members.CudaEngine: "ICudaEngine",
    members.Context: "IExecutionContext",
    members.HostMemory: "IHostMemory",
}
BUILDS_ONLY = {"Builder", "OnnxParser", "NetworkDefinitionCreationFlag"}


def members_of(protocol: type) -> set[str]:
    return {name for name in {*vars(protocol), *protocol.__annotations__} if not name.startswith("_")}


def missing(module: Any, protocols: dict[type, str]) -> list[str]:
    return [
        f"{name}.{member}"
        for protocol, name in protocols.items()
        for member in members_of(protocol)
        if not hasattr(getattr(module, name, None), member)
    ]


def test_rtx_has_all_members() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="no TensorRT for RTX for this platform: pip install 'oddsight[dev]'")
    assert missing(rtx, {**BUILDS, **RUNS}) == []
    assert [name for name in members_of(members.TensorRt) if not hasattr(rtx, name)] == []
    assert rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED is not None
    assert rtx.BuilderFlag.TF32 is not None


def test_lean_has_all_runtime_members() -> None:
    lean = pytest.importorskip("tensorrt_lean", reason="no lean TensorRT for this platform: pip install 'oddsight[dev]'")
    assert lean.__version__.startswith("11.")
    assert missing(lean, RUNS) == []
    assert [name for name in members_of(members.TensorRt) - BUILDS_ONLY if not hasattr(lean, name)] == []


def test_all_protocols_are_compared() -> None:
    written = {value for value in vars(members).values() if getattr(value, "_is_protocol", False)} - {Protocol}
    assert written == {*BUILDS, *RUNS, members.TensorRt}


@pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt_lean"])
def test_no_gpu_does_not_end_the_process(module: str, tmp_path: Path) -> None:
    """With the lean one it would not: its ``Runtime`` ends the process where there is no driver."""
    pytest.importorskip(module)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deploy.bundle import read_bundle\n"
        "from deploy.engine import EngineRequest\n"
        "from deploy.registry import load_engine\n"
        "from deploy.errors import EngineUnavailable\n"
        "from deploy.engines.tensorrt import MODULES\n"
        f"MODULES['tensorrt'] = {module!r}\n"
        "try:\n"
        "    load_engine(read_bundle(Path(sys.argv[1])), EngineRequest('tensorrt', 'f16'))\n"
        "except EngineUnavailable as error:\n"
        "    print(error)\n"
        "print('alive')\n"
    )
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program, DEFAULT_BUNDLE], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "alive"), done.stderr
    assert "the tensorrt engine needs" in done.stdout
