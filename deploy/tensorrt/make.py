"""A bundle's plan, made for this machine and kept in the bundle."""

import os
import platform
import re
from pathlib import Path

from deploy.bundle import ONNX_NAME, Bundle, replace_file, require_writable, sha256
from deploy.cuda.gpu import find_gpu
from deploy.engine import Precision
from deploy.errors import BundleCorrupt, EngineError
from deploy.footage import Footage
from deploy.graphs import graph_of
from deploy.plans import read_plan, write_plan
from deploy.tensorrt.build import Tell, build_plan
from deploy.tensorrt.library import import_library
from deploy.tensorrt.members import TensorRt
from deploy.tensorrt.options import BuildOptions
from deploy.variants import Fingerprint, Plan, Variant

FOR_ALL_GPUS = frozenset({"tensorrt-rtx"})
"""Engines whose plans run on every GPU that the library knows, and are made without one."""
CHOOSING = "choosing convolutions"
"""The phase before the library's own."""


def fingerprint_here(engine: str, library: TensorRt) -> Fingerprint:
    """What a plan of ``engine`` that is made here is good for.

    Raises:
        EngineUnavailable: it is for the GPU that is here, and there is none.
    """
    known = {"backend": engine, "version": library.__version__, "os": f"{platform.system()} {platform.machine()}"}
    if engine in FOR_ALL_GPUS:
        return known
    gpu = find_gpu(engine)
    return {**known, "gpu": gpu.name, "compute_capability": gpu.compute_capability}


def make_plan(
    bundle: Bundle, engine: str, precision: Precision, options: BuildOptions, tell: Tell, footage: Footage | None = None
) -> Variant:
    """Build a plan and keep it, its gate still to be passed. One that is already there, as wanted, is left.

    ``footage``: what a graph in ``int8`` is made from; without it, one that is kept is taken.

    Raises:
        EngineUnavailable: library or GPU are missing.
        BundleError: the bundle cannot be written to.
        EngineFailed: the library refuses.
        EngineRefused: there is no graph in ``int8``, and no footage or no convolution for one.
        ConfigError: the plan is larger than the options allow.
    """
    library = import_library(engine)
    here = fingerprint_here(engine, library)
    kept = _kept(bundle, engine, precision, here)
    if kept is not None and kept.plan is not None and _is_wanted(kept.plan, options, footage):
        return kept
    require_writable(bundle, "no plan could be kept; build")
    graph = graph_of(bundle, precision, footage, lambda done, total: tell(CHOOSING, done, total))
    graph_sha256, cache = sha256(graph.content), _cache_path(here)
    name = f"{bundle.model_id} {graph_sha256[:12]}"
    built = build_plan(library, graph.content, precision, options, name=name, timing_cache=_read(cache), tell=tell)
    if built.timing_cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, built.timing_cache)
    variant = Variant(
        engine=engine,
        precision=precision,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint={**here, "precision": precision, "plan_sha256": sha256(built.plan)},
        plan=Plan(
            sha256=sha256(built.plan),
            graph_sha256=graph_sha256,
            options=options,
            products=dict(built.products),
            footage=graph.footage,
        ),
    )
    write_plan(bundle, variant, built.plan)
    return variant


def _kept(bundle: Bundle, engine: str, precision: Precision, here: Fingerprint) -> Variant | None:
    try:
        return read_plan(bundle, engine, precision, here)[0]
    except (EngineError, BundleCorrupt):
        return None


def _is_wanted(plan: Plan, options: BuildOptions, footage: Footage | None) -> bool:
    return plan.options == options and (footage is None or plan.footage == footage.card)


def _cache_path(here: Fingerprint) -> Path:
    """Timings are good for all models on one GPU with one version."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "-".join(here[part] for part in ("backend", "version", "gpu") if part in here)
    return home / "oddsight" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.timings"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
