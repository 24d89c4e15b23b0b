"""The figures of a benchmark for people."""

from typing import Any

from rich.table import Table

_ENGINE = ("engine", "precision", "batch")
_RANKS = ("p50", "p95", "p99")


def bench_tables(report: dict[str, Any]) -> list[Table]:
    """Tables of a report of :func:`deploy.bench.benchmark`: our engines, and what else was measured beside them."""
    tables = [_engines_table(report)]
    if report["against"]:
        tables += [_against_table(report), _ratio_table(report)]
    return tables


def _engines_table(report: dict[str, Any]) -> Table:
    figures = "clips/s", "CPU ms a clip", *(f"{rank} ms" for rank in _RANKS), "of the floor", "torch f32", "memory MB"
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in report["floor"]["flop_per_s"].items())
    moved = f"{report['floor']['bytes_per_s'] / 1e9:.1f} GB/s"
    title = f"{report['model_id']}, for {report['tune']}"
    table = Table(*_ENGINE, *figures, title=title, caption=f"measured here: {peaks}, {moved}")
    for row in report["results"]:
        shares = (
            "" if row["ratio_to_floor"] is None else f"{row['ratio_to_floor']:.0%}",
            "" if row["against_reference"] is None else f"x {row['against_reference']:.1f}",
            "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f}",
        )
        speed = f"{row['clips_per_s']:.1f}", f"{row['cpu_s_per_clip'] * 1000:.2f}"
        table.add_row(*_engine(row), *speed, *_latencies(row), *shares)
    return table


def _against_table(report: dict[str, Any]) -> Table:
    first = report["against"][0]
    columns = "inferencer", "precision", "size", "million parameters", "images/s", "CPU ms an image"
    title = f"{first['name']} {first['version']}, {first['weights']}, one image a call"
    table = Table(*columns, *(f"{rank} ms" for rank in _RANKS), title=title)
    for row in report["against"]:
        height_px, width_px = row["size_px"]
        network = row["inferencer"], row["precision"], f"{width_px}x{height_px}", f"{row['parameters_millions']:.1f}"
        table.add_row(*network, f"{row['images_per_s']:.1f}", f"{row['cpu_s_per_image'] * 1000:.2f}", *_latencies(row))
    return table


def _ratio_table(report: dict[str, Any]) -> Table:
    keys = report["results"][0]["against_anomalib"] if report["results"] else ()
    table = Table(*_ENGINE, *keys, title="CPU time of an image there by that of a clip here")
    for row in report["results"]:
        table.add_row(*_engine(row), *(f"x {ratio:.1f}" for ratio in row["against_anomalib"].values()))
    return table


def _engine(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["engine"], row["precision"], str(row["batch"])


def _latencies(row: dict[str, Any]) -> list[str]:
    return [f"{row['latency_ms'][rank]:.1f}" for rank in _RANKS]
