"""Engines for GPUs, on a device that a test makes up: their own code and their real models, on the CPU."""

from pathlib import Path

import pytest

from deploy.bundle import Bundle
from deploy.engine import Precision
from deploy.export.tensorrt import make_plan
from deploy.gpu.driver import Gpu
from deploy.records import BuildOptions, EngineRecord, Fingerprint, read_plan
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.harness.host_driver import HostDriver

GPU_ENGINES = ("torch-cuda", "tensorrt", "tensorrt-rtx")
MADE_UP = Gpu("Made up", "9.0")


def make_up_gpu(patch: pytest.MonkeyPatch, cache: Path, library: FakeTensorRt | None = None) -> HostDriver:
    """From now on there is a GPU, TensorRT is a script, and plans are built when they are asked for."""
    driver, script = HostDriver(), library or FakeTensorRt()
    patch.setenv("XDG_CACHE_HOME", str(cache))
    for module in ("deploy.engines.torch", "deploy.engines.tensorrt"):
        patch.setattr(f"{module}.find_gpu", lambda _engine: MADE_UP)
        patch.setattr(f"{module}.CudaDriver", lambda _engine: driver)
    for module in ("deploy.engines.tensorrt", "deploy.export.tensorrt"):
        patch.setattr(f"{module}.import_library", lambda _flavour: script)
    build_when_asked_for(patch)
    return driver


def build_when_asked_for(patch: pytest.MonkeyPatch) -> None:
    """Plans that are not there yet are built: a test of an engine need not care."""

    def built(bundle: Bundle, engine: str, precision: Precision, here: Fingerprint) -> tuple[EngineRecord, bytes]:
        make_plan(bundle, engine, precision, BuildOptions(), lambda *_: None)
        return read_plan(bundle, engine, precision, here)

    patch.setattr("deploy.engines.tensorrt.read_plan", built)
