"""The figures of a benchmark for people.

What the commands have found, as plain values for scripts and as tables for people.
"""

import json
from dataclasses import asdict
from typing import Any

from rich.table import Table

from deploy.bundle import Bundle
from deploy.records import EngineRecord, read_default, read_records
from deploy.selection.optimize import Goal, Outcome, Trial
from deploy.validation.admission import VerifyResult

_TRIALS_CAPTION = """best: now the bundle's default; scored: of the clips that came;
CPU ms: a clip; p50, p95: from a clip's coming to its score"""


def bundle_content(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """All that a bundle holds, by part.

    Raises:
        BundleCorrupt: a record of its engines cannot be read.
    """
    manifest, default = bundle.manifest, read_default(bundle)
    return {
        "model": {"model_id": manifest.model_id, "kind": manifest.model.kind, "config": manifest.model.config},
        "spec": manifest.spec.model_dump(),
        "calibration": {"calibration_id": bundle.calibration.calibration_id, **bundle.calibration.model_dump()},
        "metrics": manifest.metrics,
        "versions": manifest.versions,
        "engines": {f"{kept.engine} {kept.precision}": variant_values(kept) for kept in read_records(bundle)},
        "default engine": {} if default is None else default.model_dump(mode="json"),
        "files": {name: {"bytes": bundle.file(name).stat().st_size, "sha256": sha256} for name, sha256 in manifest.files.items()},
    }


def variant_values(variant: EngineRecord) -> dict[str, Any]:
    """What is kept of an engine, as plain values."""
    gate, plan = variant.accuracy, variant.plan
    tried = {"rank_correlation": gate.spearman, "failures": gate.failures} if gate else {}
    built = {"plan": plan.model_dump()} if plan else {}
    return {"passed": gate.passed if gate else "not tried yet", **tried, **variant.fingerprint, **built}


def verdict_values(verdict: VerifyResult) -> dict[str, Any]:
    """A verdict as plain values."""
    return {
        **asdict(verdict),
        "accuracy": verdict.accuracy and {"passed": verdict.accuracy.passed, **verdict.accuracy.model_dump()},
    }


def value_table(title: str, values: dict[str, Any]) -> Table:
    """Names and values."""
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table


def verdict_table(verdicts: list[VerifyResult]) -> Table:
    """How far each engine's answers are from the reference's."""
    columns = "engine", "precision", "status", "score error", "heat map error", "state error", "rank correlation"
    table = Table(*columns, caption="the largest errors of float32, the median ones of other precisions")
    for verdict in verdicts:
        table.add_row(verdict.engine, verdict.precision, verdict.status, *_errors(verdict))
    return table


def trial_values(trial: Trial, outcome: Outcome, goal: Goal) -> dict[str, Any]:
    """A trial as plain values."""
    figures = trial.figures
    return {
        **asdict(trial.candidate),
        "status": trial.status,
        "judgement": figures and goal.judge(figures),
        "best": trial is outcome.winner,
        "figures": figures and {**figures.model_dump(), "scored_share": figures.scored_share},
        "detail": trial.detail,
    }


def trials_table(trials: list[dict[str, Any]]) -> Table:
    """What came of each trial of an optimisation that was measured."""
    # As narrow as it can be: all of it fits into 80 columns.
    table = Table(caption=_TRIALS_CAPTION, caption_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("engine", "hint", ""):
        table.add_column(column, no_wrap=True)
    for column in ("scored", "clips/s", "CPU ms", "p50 ms", "p95 ms", "busy"):
        table.add_column(column, no_wrap=True, justify="right")
    for trial in trials:
        word = "best" if trial["best"] else trial["judgement"]
        table.add_row(
            f"{trial['engine']} {trial['precision']}", trial["performance_hint"], word, *_load_figures(trial["figures"])
        )
    return table


def reason_line(engine: str, precision: str, status: str, detail: str) -> str:
    """What there is to say of an engine besides figures."""
    note = "not available here: " if status == "unavailable" else ""
    return f"{engine} {precision}: {note}{detail}"


def _load_figures(figures: dict[str, Any]) -> list[str]:
    speed = f"{figures['scored_share']:.1%}", f"{figures['clips_per_s']:.1f}", f"{figures['cpu_s_per_clip'] * 1000:.2f}"
    latencies = (f"{figures['latency_ms'][rank]:.0f}" for rank in ("p50", "p95"))
    return [*speed, *latencies, f"{figures['busy_share']:.0%}"]


def _errors(verdict: VerifyResult) -> list[str]:
    correlation = "" if verdict.accuracy is None else f"{verdict.accuracy.spearman:.4f}"
    if verdict.parity is None:
        return ["" if verdict.accuracy is None else f"{verdict.accuracy.median_error:.1e}", "", "", correlation]
    errors = verdict.parity.max_score_error, verdict.parity.max_heatmap_error, verdict.parity.max_state_error
    return [*("" if error is None else f"{error:.1e}" for error in errors), correlation]


_RANKS = ("p50", "p95", "p99")


def benchmark_table(report: dict[str, Any]) -> Table:
    """The engines of a report of :func:`deploy.benchmark.run.benchmark`."""
    figures = "clips/s", "CPU ms a clip", *(f"{rank} ms" for rank in _RANKS), "of the floor", "torch f32", "memory MB"
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in report["floor"]["flop_per_s"].items())
    caption = f"measured here: {peaks}, {report['floor']['bytes_per_s'] / 1e9:.1f} GB/s"
    table = Table(
        "engine", "precision", "batch", *figures, title=f"{report['model_id']}, for {report['performance_hint']}", caption=caption
    )
    for row in report["results"]:
        table.add_row(row["engine"], row["precision"], str(row["batch"]), *_speed(row))
    return table


def _speed(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['clips_per_s']:.1f}",
        f"{row['cpu_s_per_clip'] * 1000:.2f}",
        *(f"{row['latency_ms'][rank]:.1f}" for rank in _RANKS),
        "" if row["ratio_to_floor"] is None else f"{row['ratio_to_floor']:.0%}",
        "" if row["against_reference"] is None else f"x {row['against_reference']:.1f}",
        "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f}",
    ]
