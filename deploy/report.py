"""Format the results of ``oddsight-deploy``, as plain values for JSON and as tables."""

import json
from dataclasses import asdict
from typing import Any

from rich.table import Table

from deploy.benchmark.optimize import Goal, OptimizeResult, Trial
from deploy.bundle import Bundle
from deploy.records import EngineRecord, read_default, read_records
from deploy.validation.admission import VerifyResult

_RANKS = ("p50", "p95", "p99")
_TRIALS_CAPTION = """best: now the bundle's default; scored: of the clips that arrived;
CPU ms: a clip; p50, p95: from a clip's arrival to its score"""


def bundle_content(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Everything that a bundle holds, by section. Raises BundleCorrupt if a record of its engines cannot be read."""
    manifest, default = bundle.manifest, read_default(bundle)
    return {
        "model": {"model_id": manifest.model_id, "kind": manifest.model.kind, "config": manifest.model.config},
        "spec": manifest.spec.model_dump(),
        "calibration": {"calibration_id": bundle.calibration.calibration_id, **bundle.calibration.model_dump()},
        "metrics": manifest.metrics,
        "versions": manifest.versions,
        "engines": {f"{record.engine} {record.precision}": record_values(record) for record in read_records(bundle)},
        "default engine": {} if default is None else default.model_dump(mode="json"),
        "files": {name: {"bytes": bundle.file(name).stat().st_size, "sha256": sha256} for name, sha256 in manifest.files.items()},
    }


def record_values(record: EngineRecord) -> dict[str, Any]:
    """An engine's record as plain values."""
    accuracy, plan = record.accuracy, record.plan
    result = {"rank_correlation": accuracy.spearman, "failures": accuracy.failures} if accuracy else {}
    built = {"plan": plan.model_dump()} if plan else {}
    return {"passed": accuracy.passed if accuracy else "not validated yet", **result, **record.fingerprint, **built}


def verify_values(result: VerifyResult) -> dict[str, Any]:
    """The result of a validation as plain values."""
    accuracy = result.accuracy
    return {**asdict(result), "accuracy": accuracy and {"passed": accuracy.passed, **accuracy.model_dump()}}


def trial_values(trial: Trial, result: OptimizeResult, goal: Goal) -> dict[str, Any]:
    """A trial of an optimization as plain values."""
    request, figures = trial.request, trial.figures
    return {
        "engine": request.engine,
        "precision": request.precision,
        "performance_hint": request.performance_hint,
        "status": trial.status,
        "judgement": figures and goal.judge(figures),
        "best": trial is result.best,
        "figures": figures and {**figures.model_dump(), "scored_share": figures.scored_share},
        "detail": trial.detail,
    }


def value_table(title: str, values: dict[str, Any]) -> Table:
    """A table of names and values."""
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table


def verify_table(results: list[VerifyResult]) -> Table:
    """Deviations of each engine from the reference."""
    columns = "engine", "precision", "status", "score error", "heat map error", "state error", "rank correlation"
    table = Table(*columns, caption="the largest errors of float32, the median ones of other precisions")
    for result in results:
        table.add_row(result.engine, result.precision, result.status, *_errors(result))
    return table


def trials_table(trials: list[dict[str, Any]]) -> Table:
    """Load test results of an optimization."""
    # Without borders, so that it fits into 80 columns.
    table = Table(caption=_TRIALS_CAPTION, caption_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("engine", "hint", ""):
        table.add_column(column, no_wrap=True)
    for column in ("scored", "clips/s", "CPU ms", "p50 ms", "p95 ms", "busy"):
        table.add_column(column, no_wrap=True, justify="right")
    for trial in trials:
        figures = trial["figures"]
        table.add_row(
            f"{trial['engine']} {trial['precision']}",
            trial["performance_hint"],
            "best" if trial["best"] else trial["judgement"],
            f"{figures['scored_share']:.1%}",
            f"{figures['clips_per_s']:.1f}",
            f"{figures['cpu_s_per_clip'] * 1000:.2f}",
            *(f"{figures['latency_ms'][rank]:.0f}" for rank in ("p50", "p95")),
            f"{figures['busy_share']:.0%}",
        )
    return table


def detail_line(engine: str, precision: str, status: str, detail: str) -> str:
    """One line on an engine: its settings, or why it failed or is unavailable."""
    note = "not available here: " if status == "unavailable" else ""
    return f"{engine} {precision}: {note}{detail}"


def benchmark_table(report: dict[str, Any]) -> Table:
    """The engines of a report of :func:`deploy.benchmark.run.benchmark`."""
    figures = "clips/s", "CPU ms a clip", *(f"{rank} ms" for rank in _RANKS), "of the floor", "torch f32", "memory MB"
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in report["floor"]["flop_per_s"].items())
    caption = f"measured here: {peaks}, {report['floor']['bytes_per_s'] / 1e9:.1f} GB/s"
    title = f"{report['model_id']}, for {report['performance_hint']}"
    table = Table("engine", "precision", "batch", *figures, title=title, caption=caption)
    for row in report["results"]:
        table.add_row(
            row["engine"],
            row["precision"],
            str(row["batch"]),
            f"{row['clips_per_s']:.1f}",
            f"{row['cpu_s_per_clip'] * 1000:.2f}",
            *(f"{row['latency_ms'][rank]:.1f}" for rank in _RANKS),
            "" if row["ratio_to_floor"] is None else f"{row['ratio_to_floor']:.0%}",
            "" if row["against_reference"] is None else f"x {row['against_reference']:.1f}",
            "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f}",
        )
    return table


def _errors(result: VerifyResult) -> list[str]:
    accuracy, parity = result.accuracy, result.parity
    correlation = "" if accuracy is None else f"{accuracy.spearman:.4f}"
    if parity is None:
        return ["" if accuracy is None else f"{accuracy.median_error:.1e}", "", "", correlation]
    errors = parity.max_score_error, parity.max_heatmap_error, parity.max_state_error
    return [*("" if error is None else f"{error:.1e}" for error in errors), correlation]
