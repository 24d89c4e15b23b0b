"""Plans in a bundle: written with what they were made for, and read only if that is what is here and they are as they were.

How a plan is made. Part of its fingerprint.

What was tried on this machine: one folder for each engine and precision, in the bundle's ``engines``.

    engines/openvino-bf16/engine.json    fingerprint and gate
    engines/tensorrt-f16/plan            native code for one GPU, and beside it its engine.json with its sha256

Kept apart from ``bundle.json``, which the trainer writes and which is the same on every machine.

The engine that a bundle is served with where the settings name none: what ``oddsight-deploy optimize`` chose on a machine.

engines/default.json    engine, precision and performance hint, what they were chosen for, and what was measured
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from deploy.bundle import ONNX_NAME, Bundle, replace_file, sha256
from deploy.engine import PerformanceHint, Precision
from deploy.errors import BundleCorrupt, BundleError, ConfigError, EngineRefused, PlanStale
from deploy.export.calibration_frames import FootageCard
from deploy.selection.load_test import Figures
from deploy.validation.accuracy import Gate


class BuildOptions(BaseModel):
    """How a plan is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    buckets: tuple[int, ...] = Field(default=(1, 8, 32, 128), min_length=1)
    """Clips a call, in rising order; a call with fewer is filled up to the next."""
    profiles: Literal["static", "wide"] = "static"
    """``static``: one profile a bucket, each tuned for it; ``wide``: one for all, tuned for the largest."""
    level: int = Field(default=3, ge=0, le=5)
    """How long the builder looks for faster kernels: 0 hardly, 5 longest."""
    workspace_bytes: int = Field(default=4 << 30, ge=1 << 20)
    """Most GPU memory that a kernel may take for itself; only what is needed is taken."""
    max_plan_bytes: int = Field(default=1 << 30, ge=1)
    """A larger plan is an error."""

    @field_validator("buckets")
    @classmethod
    def _rising(cls, buckets: tuple[int, ...]) -> tuple[int, ...]:
        if list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or buckets[-1] > 1024:
            raise ValueError(f"buckets must rise, from 1 to 1024, got {buckets}")
        return buckets


def read_options(
    *, buckets: Sequence[int] | None, profiles: Literal["static", "wide"], level: int, workspace_mib: int, max_plan_mib: int
) -> BuildOptions:
    """Options as a user gives them: buckets in any order, None for the usual ones; sizes in MiB.

    Raises:
        ConfigError: one is out of its range.
    """
    given = {
        "profiles": profiles,
        "level": level,
        "workspace_bytes": workspace_mib << 20,
        "max_plan_bytes": max_plan_mib << 20,
        **({} if buckets is None else {"buckets": tuple(sorted(set(buckets)))}),
    }
    try:
        return BuildOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error


ENGINES_FOLDER = "engines"
_RECORD_NAME = "engine.json"

_Record = TypeVar("_Record", bound=BaseModel)

Fingerprint = dict[str, str]
"""What an engine's scores depend on besides the bundle: library, version, device, precision."""


class Plan(BaseModel):
    """What is known of a plan, which lies beside the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    """A plan is native code: nothing else may be loaded."""
    graph_sha256: str
    """Of the graph that it was built from: the bundle's own, or one of another precision made from it."""
    options: BuildOptions
    products: dict[str, int]
    """Type -> how many convolutions and matrix products are in it, as the library understood the graph."""
    footage: FootageCard | None = None
    """What the graph was made from besides the model; None: nothing."""


class Variant(BaseModel):
    """``engine.json``: an engine of one precision as it was found on a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    precision: Precision
    model_sha256: str
    """Of the serving graph that it was made from."""
    fingerprint: Fingerprint
    gate: Gate | None = None
    """None: built, and not tried yet."""
    plan: Plan | None = None
    """For engines that are built before they are loaded."""


def write_variant(bundle: Bundle, variant: Variant) -> Path:
    """Keep what was found; an earlier find of the same engine and precision is replaced."""
    folder = variant_folder(bundle, variant.engine, variant.precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _RECORD_NAME, (variant.model_dump_json(indent=2) + "\n").encode())
    return folder


def read_variants(bundle: Bundle) -> list[Variant]:
    """All that is kept, in order of name; of graphs that the bundle no longer holds as well.

    Raises:
        BundleCorrupt: a record cannot be read.
    """
    return [_read(path) for path in sorted((bundle.path / ENGINES_FOLDER).glob(f"*/{_RECORD_NAME}"))]


def passed_variant(bundle: Bundle, engine: str, precision: Precision, fingerprint: Fingerprint) -> Variant:
    """The record of an engine that may be put to work here.

    Raises:
        EngineRefused: it was never tried, it failed, or something it depends on has changed since; names each difference.
        BundleCorrupt: its record cannot be read.
    """
    variant = find_variant(bundle, engine, precision)
    again = f"try it: oddsight-deploy verify {bundle.path} --engine {engine} --precision {precision}"
    if variant is None or variant.gate is None:
        raise EngineRefused(f"{engine} in {precision} has not been tried with this bundle; {again}")
    if variant.gate.failures:
        raise EngineRefused(f"{engine} in {precision} was refused: {'; '.join(variant.gate.failures)}; use f32")
    expected = {"model_sha256": variant.model_sha256, **variant.fingerprint}
    found = {"model_sha256": bundle.manifest.files[ONNX_NAME], **fingerprint}
    if changed := differences(expected, found):
        raise EngineRefused(f"{engine} in {precision} was tried elsewhere: {'; '.join(changed)}; {again}")
    return variant


def find_variant(bundle: Bundle, engine: str, precision: Precision) -> Variant | None:
    """The record of an engine; None if nothing was ever kept of it.

    Raises:
        BundleCorrupt: it cannot be read.
    """
    path = variant_folder(bundle, engine, precision) / _RECORD_NAME
    return _read(path) if path.is_file() else None


def differences(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """What differs, one sentence each, in order of name; none: they are equal."""
    return [
        f"{name} was {expected.get(name)}, is {found.get(name)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def variant_folder(bundle: Bundle, engine: str, precision: Precision) -> Path:
    """Where what belongs to an engine of one precision lies."""
    return bundle.path / ENGINES_FOLDER / f"{engine}-{precision}"


def read_record(kind: type[_Record], path: Path, again: str) -> _Record:
    """A record that was kept in a bundle; ``again``: the command that makes it.

    Raises:
        BundleCorrupt: it cannot be read.
    """
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise BundleCorrupt(f"{path}: {reason}; delete it and run {again} again") from error


def _read(path: Path) -> Variant:
    return read_record(Variant, path, "oddsight-deploy verify")


_NAME: Final = "default.json"


class DefaultEngine(BaseModel):
    """``default.json``: the winner, for a model, a machine and a load."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: str
    precision: Precision
    performance_hint: PerformanceHint
    model_sha256: str
    """Of the serving graph that it was chosen for."""
    fingerprint: Fingerprint
    cameras: int
    frame_rate: float
    """Frames a second of each camera."""
    keeps_up: bool
    """Whether it did with that load; if not, no engine did."""
    measured: Figures
    chosen_at: AwareDatetime
    """In UTC."""


def write_default(bundle: Bundle, default: DefaultEngine) -> Path:
    """Keep the choice; an earlier one is replaced.

    Raises:
        BundleError: the bundle cannot be written to.
    """
    path = _path(bundle)
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, (default.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; choose on a copy of the bundle that you may write to") from error
    return path


def read_default(bundle: Bundle) -> DefaultEngine | None:
    """What was chosen, here or elsewhere, for this model or an earlier one; None: nothing was.

    Raises:
        BundleCorrupt: the record cannot be read.
    """
    path = _path(bundle)
    return read_record(DefaultEngine, path, "oddsight-deploy optimize") if path.exists() else None


def _path(bundle: Bundle) -> Path:
    return bundle.path / ENGINES_FOLDER / _NAME


_PLAN_NAME = "plan"


def write_plan(bundle: Bundle, variant: Variant, plan: bytes) -> None:
    """Keep a plan, which ``variant`` describes. The record is written last, so that it never names a plan that is not there."""
    folder = variant_folder(bundle, variant.engine, variant.precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _PLAN_NAME, plan)
    write_variant(bundle, variant)


def read_plan(bundle: Bundle, engine: str, precision: Precision, here: Fingerprint) -> tuple[Variant, bytes]:
    """A plan that may be loaded, with its record. ``here``: what plans of this engine depend on, as it is on this machine.

    Raises:
        EngineRefused: there is none.
        PlanStale: it was made for something else; names each difference.
        BundleCorrupt: it is not what was written: it is native code, and nothing else may be loaded.
    """
    build = _command(bundle, engine, precision)
    variant = find_variant(bundle, engine, precision)
    if variant is None or variant.plan is None:
        raise EngineRefused(f"{engine} in {precision} has no plan in this bundle; build it: {build}")
    expected = {"model_sha256": variant.model_sha256, **{name: variant.fingerprint.get(name, "") for name in here}}
    if changed := differences(expected, {"model_sha256": bundle.manifest.files[ONNX_NAME], **here}):
        raise PlanStale(
            f"the plan of {engine} in {precision} is for something else: {'; '.join(changed)}; build it again: {build}"
        )
    return variant, _verified(bundle, variant, variant.plan.sha256, build)


def _command(bundle: Bundle, engine: str, precision: Precision) -> str:
    """What builds the plan; in ``int8`` from footage, unless a graph was made from some before."""
    made = precision != "int8" or (variant_folder(bundle, "graph", precision) / ONNX_NAME).is_file()
    frames = "" if made else " --frames FOLDER"
    return f"oddsight-deploy build {bundle.path} --engine {engine} --precision {precision}{frames}"


def _verified(bundle: Bundle, variant: Variant, expected: str, build: str) -> bytes:
    path = variant_folder(bundle, variant.engine, variant.precision) / _PLAN_NAME
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BundleCorrupt(f"{path}: {error.strerror}; build it again: {build}") from error
    if sha256(plan) != expected:
        raise BundleCorrupt(
            f"{path}: sha256 is {sha256(plan)}, its record says {expected}; do not use it, build it again: {build}"
        )
    return plan
