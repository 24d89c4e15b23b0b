"""All scenes of a panel together: as JSON, and as tables for the terminal."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from trainer.evaluation.result import duration, figure, rate

SceneResult = Mapping[str, Any]
"""The content of ``evaluate --json`` with the faults, or what ordinary footage showed."""

_COUNTS = ("trials", "with_event", "with_health")
_AUCS = ("frame_auc", "mean_clip_auc")
_SCENE_HEADINGS = ("frame AUC", "mean clip", "best baseline", "events found", "false")
_ORDINARY_HEADINGS = ("false events", "observed", "a day", "at most, a day (95 %)")
_FAULT_HEADINGS = ("expected", "trials", "with an event", "health told", "latest, s")


def panel_json(results: Mapping[str, SceneResult]) -> dict[str, Any]:
    """The content of ``panel --json``."""
    faults: dict[str, dict[str, Any]] = {}
    for result in results.values():
        for name, found in result.get("faults", {}).items():
            total = faults.setdefault(name, {"expected": found["expected"], **dict.fromkeys(_COUNTS, 0), "latest_health_s": None})
            for count in _COUNTS:
                total[count] += found[count]
            delays = [each["latest_health_s"] for each in (total, found) if each["latest_health_s"] is not None]
            total["latest_health_s"] = max(delays, default=None)
    return {"scenes": dict(results), "faults": faults, "mean": asdict(panel_means(results))}


@dataclass(frozen=True, slots=True)
class PanelMeans:
    """Over all scenes with labels; None where undefined."""

    frame_auc: float | None
    mean_clip_auc: float | None
    events_true: int
    events_found: int
    events_false: int


def panel_means(results: Mapping[str, SceneResult]) -> PanelMeans:
    """Means of the scenes' AUCs, and sums of their events."""
    labelled = [result for result in results.values() if "streaming" in result]
    events = [result["events"] for result in labelled if result["events"]]
    frame_auc, mean_clip_auc = (_mean(result["streaming"][name] for result in labelled) for name in _AUCS)
    true, found, false = (sum(each[name] for each in events) for name in ("true", "found", "false"))
    return PanelMeans(frame_auc, mean_clip_auc, true, found, false)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def panel_tables(results: Mapping[str, SceneResult]) -> Iterator[Table]:
    """A table of the scenes with labels, one of ordinary footage, and one of the faults; without those that would be empty."""
    labelled = {name: result for name, result in results.items() if "streaming" in result}
    if labelled:
        table = _table("scenes; below an AUC its 95 % interval over resampled clips", _SCENE_HEADINGS)
        for name, result in labelled.items():
            table.add_row(name, *_scene_cells(result))
        means = panel_means(results)
        found = f"{means.events_found} of {means.events_true}"
        table.add_section()
        table.add_row("mean", figure(means.frame_auc, 3), figure(means.mean_clip_auc, 3), "", found, str(means.events_false))
        yield table
    ordinary = {name: result["ordinary"] for name, result in results.items() if "ordinary" in result}
    if ordinary:
        table = _table("ordinary footage", _ORDINARY_HEADINGS)
        for name, seen in ordinary.items():
            rates = rate(seen["events_day"]), rate(seen["events_day_bound"])
            table.add_row(name, str(seen["events"]), duration(seen["observed_s"]), *rates)
        yield table
    if faults := panel_json(results)["faults"]:
        table = _table("faults made by a script, on ordinary footage of all scenes", _FAULT_HEADINGS)
        for name, total in faults.items():
            counts = (str(total[count]) for count in _COUNTS)
            table.add_row(name, total["expected"], *counts, figure(total["latest_health_s"], 1))
        yield table


def _scene_cells(result: SceneResult) -> Iterator[str]:
    streaming, events = result["streaming"], result["events"]
    for name in _AUCS:
        bounds = streaming[f"{name}_interval"]
        yield figure(streaming[name], 3) + (f"\n{bounds['low']:.3f}-{bounds['high']:.3f}" if bounds else "")
    aucs = {name: each["streaming"]["frame_auc"] for name, each in result["baselines"].items()}
    best = max((name for name, auc in aucs.items() if auc is not None), key=lambda name: aucs[name], default=None)
    yield "-" if best is None else f"{aucs[best]:.3f} {best}"
    yield f"{events['found']} of {events['true']}" if events else "-"
    yield str(events["false"]) if events else "-"


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
