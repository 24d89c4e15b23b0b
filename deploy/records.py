"""Records of what was built, validated and chosen on a machine, kept in a bundle's folder ``engines``.

    engines/openvino-bf16/engine.json    EngineRecord: fingerprint and accuracy of one engine in one precision
    engines/tensorrt-f16/plan            TensorRT plan, native code for one GPU; its engine.json holds its sha256
    engines/default.json                 DefaultEngine: what ``oddsight-deploy optimize`` chose

They are not part of ``bundle.json``, which the trainer writes and which is the same on every machine.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from deploy.bundle import ONNX_NAME, Bundle, replace_file, sha256
from deploy.engine import PerformanceHint, Precision
from deploy.errors import BundleCorrupt, BundleError, ConfigError, EngineRefused, PlanStale, first_line, validation_line
from deploy.files import read_inside

ENGINES_FOLDER = "engines"
_RECORD_NAME = "engine.json"
_PLAN_NAME = "plan"
_DEFAULT_NAME = "default.json"

Fingerprint = dict[str, str]  # what an engine's scores depend on besides the bundle: library, version, device, precision


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BuildOptions(_Record):
    """How a TensorRT plan is built."""

    buckets: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(default=(1, 8, 32, 128), min_length=1)
    """Batch sizes; a smaller batch is padded to the next bucket."""
    profiles: Literal["static", "wide"] = (
        "static"  # one optimization profile for each bucket, or one for all tuned for the largest
    )
    optimization_level: int = Field(default=3, ge=0, le=5)  # how long the builder searches for faster kernels: 0 least, 5 longest
    workspace_bytes: int = Field(default=4 << 30, ge=1 << 20)  # limit of the GPU memory that one kernel may use as scratch space
    max_plan_bytes: int = Field(default=1 << 30, ge=1)  # a larger plan is an error

    @field_validator("buckets")
    @classmethod
    def _sorted(cls, buckets: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(buckets)))

    def profile_bounds(self) -> list[tuple[int, int, int]]:
        """Minimum, optimum and maximum batch size of each optimization profile."""
        if self.profiles == "wide":
            return [(1, self.buckets[-1], self.buckets[-1])]
        return [(bucket, bucket, bucket) for bucket in self.buckets]


class CalibrationInfo(_Record):
    """Which frames an ``int8`` graph was calibrated with."""

    stretches: int
    frames: int
    sha256: str  # of all frames in a row, as the model gets them


class PlanRecord(_Record):
    """A TensorRT plan, which lies beside the record."""

    sha256: str  # a plan is native code: a file with another sum is never loaded
    graph_sha256: str  # of the ONNX graph that it was built from
    options: BuildOptions
    products: dict[str, int]  # type -> number of convolutions and matrix products computed in it, according to TensorRT's parser
    calibration: CalibrationInfo | None = None  # for int8 only


class AccuracyResult(_Record):
    """Deviation of an engine's scores from the reference's, and the limits that it breaks."""

    model_config = ConfigDict(allow_inf_nan=True)

    frames: int
    max_error: float  # largest difference of a score, relative to the largest reference score
    median_error: float
    spearman: float  # rank correlation of the scores, -1 to 1
    auc_difference: float  # difference in the AUC of sped-up against ordinary frames, 0 to 1
    score_scale: float = 1.0
    """Least-squares factor from the reference's scores to the engine's. The service divides by it, since the decision thresholds
    are in units of the reference's scores."""
    buckets: tuple[int, ...] = ()  # checked batch sizes, of which the figures are the worst; empty if the engine has none
    failures: tuple[str, ...]  # a sentence for each limit that is broken; empty if the engine passed

    @property
    def passed(self) -> bool:
        return not self.failures


class EngineRecord(_Record):
    """``engine.json``: one engine in one precision, as built or validated on a machine."""

    engine: str
    precision: Precision
    model_sha256: str  # of model.onnx
    fingerprint: Fingerprint
    accuracy: AccuracyResult | None = None  # None: built, but not validated yet
    plan: PlanRecord | None = None  # for TensorRT engines only


class LoadTestResult(_Record):
    """Measurements of one engine under the load of some cameras."""

    due: int  # clips that arrived
    scored: int  # clips that were scored before the test ended
    clips_per_s: float  # scored clips a second; the capacity of an engine that cannot keep up
    cpu_s_per_clip: float  # of the whole process over the whole test, idle time included: threads may wait busily
    latency_ms: dict[str, float]  # p50, p95 and p99 from a clip's arrival to its score; scored clips only
    busy_share: float  # share of the time spent scoring, 0 to 1

    @property
    def scored_share(self) -> float:
        return self.scored / self.due


class DefaultEngine(_Record):
    """``default.json``: the engine chosen for a model, a machine and a load."""

    engine: str
    precision: Precision
    performance_hint: PerformanceHint
    model_sha256: str  # of model.onnx
    fingerprint: Fingerprint
    cameras: int
    frame_rate: float  # frames a second of each camera
    keeps_up: bool  # whether it carried this load; if not, no engine did
    measured: LoadTestResult
    chosen_at: AwareDatetime  # in UTC


def parse_build_options(**options: object) -> BuildOptions:
    """Validate options of the command line; None stands for the default. Raises ConfigError if a value is out of range."""
    try:
        return BuildOptions.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(validation_line(error)) from error


def record_folder(bundle: Bundle, engine: str, precision: Precision) -> Path:
    """Folder for the files of one engine in one precision."""
    return bundle.path / ENGINES_FOLDER / f"{engine}-{precision}"


def write_record(bundle: Bundle, record: EngineRecord) -> None:
    """Write ``engine.json``, replacing an earlier one of the same engine and precision."""
    _write(record_folder(bundle, record.engine, record.precision) / _RECORD_NAME, record)


def read_records(bundle: Bundle) -> list[EngineRecord]:
    """All records in alphabetical order, including those of earlier versions of the model. Raises as :func:`find_record`."""
    return [_read_engine_record(bundle, path) for path in sorted((bundle.path / ENGINES_FOLDER).glob(f"*/{_RECORD_NAME}"))]


def find_record(bundle: Bundle, engine: str, precision: Precision) -> EngineRecord | None:
    """The record of one engine and precision, if there is one. Raises BundleCorrupt if it cannot be read."""
    path = record_folder(bundle, engine, precision) / _RECORD_NAME
    return _read_engine_record(bundle, path) if path.exists() else None


def require_validated(bundle: Bundle, engine: str, precision: Precision, fingerprint: Fingerprint) -> AccuracyResult:
    """The passed accuracy check of an engine whose current fingerprint is ``fingerprint``.

    Raises:
        EngineRefused: it was never validated, it failed, or something that its scores depend on has changed since.
        BundleCorrupt: its record cannot be read.
    """
    record = find_record(bundle, engine, precision)
    command = f"validate it: oddsight-deploy verify {bundle.path} --engine {engine} --precision {precision}"
    if record is None or record.accuracy is None:
        raise EngineRefused(f"{engine} in {precision} has not been validated with this bundle; {command}")
    scale = record.accuracy.score_scale
    if record.accuracy.failures or not (math.isfinite(scale) and scale > 0):
        reasons = "; ".join(record.accuracy.failures) or f"its scores are {scale} times the reference's"
        raise EngineRefused(f"{engine} in {precision} failed validation: {reasons}; use f32")
    validated = {"model_sha256": record.model_sha256, **record.fingerprint}
    current = {"model_sha256": bundle.manifest.files[ONNX_NAME], **fingerprint}
    if changed := differences(validated, current):
        raise EngineRefused(f"{engine} in {precision} was validated elsewhere: {'; '.join(changed)}; {command}")
    return record.accuracy


def write_plan(bundle: Bundle, record: EngineRecord, plan: bytes) -> None:
    """Write a TensorRT plan with its record. The record is written last, so that it never names a plan that is missing."""
    folder = record_folder(bundle, record.engine, record.precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _PLAN_NAME, plan)
    write_record(bundle, record)


def read_plan(bundle: Bundle, engine: str, precision: Precision, current: Fingerprint) -> tuple[EngineRecord, bytes]:
    """A TensorRT plan that may be loaded on this machine, with its record.

    ``current``: what plans of this engine depend on, as it is on this machine.

    Raises:
        EngineRefused: there is none.
        PlanStale: it was built for something else; names each difference.
        BundleCorrupt: the plan is missing or differs from what was written.
    """
    build = _build_command(bundle, engine, precision)
    record = find_record(bundle, engine, precision)
    if record is None or record.plan is None:
        raise EngineRefused(f"{engine} in {precision} has no plan in this bundle; build it: {build}")
    built_for = {"model_sha256": record.model_sha256, **{name: record.fingerprint.get(name, "") for name in current}}
    if changed := differences(built_for, {"model_sha256": bundle.manifest.files[ONNX_NAME], **current}):
        raise PlanStale(
            f"the plan of {engine} in {precision} is for something else: {'; '.join(changed)}; build it again: {build}"
        )
    path = record_folder(bundle, engine, precision) / _PLAN_NAME
    try:
        plan = read_inside(bundle.path, str(path.relative_to(bundle.path)))
    except OSError as error:
        raise BundleCorrupt(f"{path}: {error.strerror}; build it again: {build}") from error
    if sha256(plan) != record.plan.sha256:
        raise BundleCorrupt(
            f"{path}: sha256 is {sha256(plan)}, its record says {record.plan.sha256}; do not use it, build it again: {build}"
        )
    return record, plan


def _build_command(bundle: Bundle, engine: str, precision: Precision) -> str:
    """The command that builds a plan; ``int8`` needs calibration data unless the quantized graph is there."""
    graph_exists = precision != "int8" or (record_folder(bundle, "graph", precision) / ONNX_NAME).is_file()
    data = "" if graph_exists else " --calibration-data FOLDER"
    return f"oddsight-deploy build {bundle.path} --engine {engine} --precision {precision}{data}"


def write_default(bundle: Bundle, default: DefaultEngine) -> None:
    """Write ``default.json``, replacing an earlier one. Raises BundleError if the bundle is not writable."""
    path = bundle.path / ENGINES_FOLDER / _DEFAULT_NAME
    try:
        _write(path, default)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; choose on a copy of the bundle that you may write to") from error


def read_default(bundle: Bundle) -> DefaultEngine | None:
    """The engine chosen on this or another machine, for this or an earlier model, if any. Raises as :func:`find_record`."""
    path = bundle.path / ENGINES_FOLDER / _DEFAULT_NAME
    return _read(DefaultEngine, bundle, path, "oddsight-deploy optimize") if path.exists() else None


def differences(expected: Fingerprint, actual: Fingerprint) -> list[str]:
    """A sentence for each entry that differs, in alphabetical order."""
    return [
        f"{name} was {expected.get(name)}, is {actual.get(name)}"
        for name in sorted(expected.keys() | actual.keys())
        if expected.get(name) != actual.get(name)
    ]


_R = TypeVar("_R", bound=_Record)


def _write(path: Path, record: _Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (record.model_dump_json(indent=2) + "\n").encode())


def _read_engine_record(bundle: Bundle, path: Path) -> EngineRecord:
    command = "build" if path.parent.name.startswith("tensorrt") else "verify"
    return _read(EngineRecord, bundle, path, f"oddsight-deploy {command}")


def _read(kind: type[_R], bundle: Bundle, path: Path, command: str) -> _R:
    try:
        return kind.model_validate(json.loads(read_inside(bundle.path, str(path.relative_to(bundle.path)))))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise BundleCorrupt(f"{path}: {reason}; delete it and run {command} again") from error
