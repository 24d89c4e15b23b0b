"""The scoreboard: learns every scene of a folder by one recipe, and measures detection, false events and faults there.

A scene with test clips is evaluated. One with a folder ``training`` alone is ordinary footage: every other clip is learned from,
false events are counted in the rest. What is finished is kept in ``OUT/SCENE.json``, so an interrupted run can be resumed.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from deploy.bundle import Bundle, read_bundle
from deploy.calibration import Thresholds, thresholds
from deploy.console import counting_bar
from deploy.decision import DecisionRule, DecisionTimes
from deploy.engine import Engine, EngineRequest
from deploy.errors import ConfigError
from deploy.image import Frame, natural_key
from deploy.profile import read_profile, with_profile, write_profile
from deploy.registry import load_engine
from deploy.spec import ClipSpec
from trainer.data.datasets import labelled_clips, training_sources
from trainer.data.footage import (
    Footage,
    Source,
    collect_frames,
    count_frames,
    decode_frames,
    estimate_frame_count,
    load_footage,
)
from trainer.enrol import enrol
from trainer.errors import NoFootage, TooLittleFootage
from trainer.evaluate import evaluate
from trainer.evaluation.event_metrics import announced_events, rate_bound
from trainer.evaluation.result import as_json
from trainer.evaluation.runner import score_footage
from trainer.fit import FitConfig, fit
from trainer.panel.faults import FAULTS, Fault, Recording, health_states, recording_of
from trainer.panel.report import SceneResult

_ENGINE = "openvino"
_FORMAT = 6  # of a kept result
_FAULT_S, _LEAD_S = 25.0, 5.0  # of a recording, and of what comes before the fault
_TRIALS = 2  # of each fault in each scene
_DAY_S = 86_400.0

Mode = Literal["enrol", "fit"]


@dataclass(frozen=True, slots=True)
class PanelConfig:
    """How the scenes are learned."""

    mode: Mode
    """``enrol``: a profile for the network of ``bundle``; ``fit``: a network of each scene's own."""
    bundle: Bundle
    budget: float
    """False events per camera and day that thresholds allow."""
    max_minutes: float
    """Training time of each network, for ``fit``."""
    ordinary_minutes: float
    """Of each clip of ordinary footage in which false events are counted."""


def run_panel(root: Path, out: Path, config: PanelConfig, screen: Console) -> dict[str, SceneResult]:
    """The result of every scene in ``root``, by folder; those that cannot be learned are named on the screen and left out.

    Raises ConfigError if there is no scene, or ``out`` cannot be written to.
    """
    folders = sorted((path for path in root.iterdir() if path.is_dir()), key=natural_key) if root.is_dir() else []
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out must be a folder that can be made, got {out}: {error.strerror}") from error
    results: dict[str, SceneResult] = {}
    for folder in folders:
        screen.print(f"{folder.name} ...", highlight=False, markup=False)
        try:
            results[folder.name] = _finished(folder, out, config) or _measure(folder, out, config, screen)
        except (NoFootage, TooLittleFootage) as error:
            screen.print(f"{folder.name} is left out: {error}", highlight=False, markup=False)
    if not results:
        raise ConfigError(f"{root}: no scene to measure; expected folders with training/ and, with labels, testing/")
    return results


def _identity(config: PanelConfig) -> dict[str, Any]:
    """What a kept result must agree with."""
    own = {"max_minutes": config.max_minutes} if config.mode == "fit" else {"model_id": config.bundle.model_id}
    return {"format": _FORMAT, "mode": config.mode, "budget": config.budget, "ordinary_minutes": config.ordinary_minutes, **own}


def _finished(folder: Path, out: Path, config: PanelConfig) -> SceneResult | None:
    try:
        result: SceneResult = json.loads((out / f"{folder.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("recipe") == _identity(config) else None


def _measure(folder: Path, out: Path, config: PanelConfig, screen: Console) -> SceneResult:
    try:
        labelled_clips(folder)
    except NoFootage:
        result = _measure_ordinary(folder, out, config, screen)
    else:
        bundle = _learned(folder, folder.name, out, config, screen)
        result = as_json(evaluate(bundle.path, folder, _ENGINE, screen, _profile_path(folder.name, out, config), config.budget))
        result["faults"] = _measure_faults(
            bundle, _fps(bundle, folder.name, out, config), training_sources(folder), screen, config
        )
    result["recipe"] = _identity(config)
    (out / f"{folder.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _learned(data: Path, scene: str, out: Path, config: PanelConfig, screen: Console) -> Bundle:
    """The bundle with the scene's profile, or the scene's own bundle."""
    if config.mode == "fit":
        own = fit(data, out / scene, FitConfig(max_minutes=config.max_minutes), screen)
        return own or read_bundle(out / scene)
    bundle, path = config.bundle, _profile_path(scene, out, config)
    if path is not None and not path.exists():
        write_profile(path, enrol(bundle, scene, data, screen))
    return bundle if path is None else with_profile(bundle, read_profile(path))


def _fps(bundle: Bundle, scene: str, out: Path, config: PanelConfig) -> float:
    """Frames per second of a scene: its profile's, or those of its own bundle."""
    path = _profile_path(scene, out, config)
    return bundle.spec.fps if path is None else read_profile(path).info.fps


def _profile_path(scene: str, out: Path, config: PanelConfig) -> Path | None:
    return None if config.mode == "fit" else out / f"{scene}-{config.bundle.model_id}.safetensors"


# --- Ordinary footage


def _measure_ordinary(folder: Path, out: Path, config: PanelConfig, screen: Console) -> dict[str, Any]:
    """Learn from every other clip, and count the events in the others."""
    if not (folder / "training").is_dir():
        raise NoFootage(f"{folder}: neither test clips nor a folder training")
    sources = training_sources(folder)
    if len(sources) < 2:
        raise TooLittleFootage(f"{folder}: one clip; of ordinary footage some is learned from, and the rest is judged")
    with _folder_of(sources[::2]) as data:
        bundle = _learned(data, folder.name, out, config, screen)
    limits = thresholds(bundle.calibration, config.budget, DecisionTimes())
    fps = _fps(bundle, folder.name, out, config)
    rule, frames = DecisionRule(enter=limits.enter, exit=limits.exit), round(config.ordinary_minutes * 60 * fps)
    events, observed_s = 0, 0.0
    with closing(load_engine(bundle, EngineRequest(_ENGINE))) as engine:
        for source in sources[1::2]:
            part = _first_frames(source, bundle.spec, frames)
            with counting_bar(screen, f"counting, {source.name}", len(part.frames)) as advance:
                scores = score_footage(engine, part, advance, fps)
            events += len(announced_events(rule, scores, fps))
            observed_s += len(part.frames) / fps
    days = observed_s / _DAY_S
    return {
        "ordinary": {
            "events": events,
            "observed_s": observed_s,
            "events_day": events / days,
            "events_day_bound": rate_bound(events, days),
            "enter": limits.enter,
            "bound": limits.bound,
        }
    }


def _first_frames(source: Source, spec: ClipSpec, count: int) -> Footage:
    """The readable ones of the first frames."""
    frames: list[Frame] = []
    collect_frames(islice(decode_frames(source, spec), count), frames.append)
    return _named(source.name, np.stack(frames) if frames else np.empty((0, *spec.frame_shape), np.uint8))


@contextmanager
def _folder_of(sources: Sequence[Source]) -> Iterator[Path]:
    """A folder of footage that holds these clips alone."""
    with tempfile.TemporaryDirectory(prefix="oddsight-panel-") as name:
        for source in sources:
            (Path(name) / source.path.name).symlink_to(source.path.resolve())
        yield Path(name)


# --- Faults


def _measure_faults(
    bundle: Bundle, fps: float, sources: Sequence[Source], screen: Console, config: PanelConfig
) -> dict[str, Any]:
    """How often each fault raised an event on ordinary footage of the scene."""
    longest = sorted(sources, key=lambda source: -(estimate_frame_count(source) or count_frames(source)))[:_TRIALS]
    clips = (load_footage(source, bundle.spec) for source in longest)
    recordings = [recording_of(clip, _FAULT_S, _LEAD_S, fps) for clip in clips]
    limits = thresholds(bundle.calibration, config.budget, DecisionTimes())
    with (
        closing(load_engine(bundle, EngineRequest(_ENGINE))) as engine,
        counting_bar(screen, "faults", len(FAULTS) * len(recordings)) as advance,
    ):
        found: dict[str, Any] = {}
        for number, fault in enumerate(FAULTS):
            outcomes = []
            for trial, recording in enumerate(recordings):
                outcomes.append(_make_fault(engine, limits, fault, recording, seed=100 * number + trial))
                advance(1)
            possible = [outcome for outcome in outcomes if outcome is not None]
            found[fault.name] = {
                "expected": fault.expected,
                "trials": len(possible),
                "with_event": sum(outcome.event for outcome in possible),
                "with_health": sum(outcome.told_s is not None for outcome in possible),
                "latest_health_s": max((outcome.told_s for outcome in possible if outcome.told_s is not None), default=None),
            }
    return found


class _Outcome(NamedTuple):
    """What the watchman made of a fault."""

    event: bool
    """Whether an event is active after it began."""
    told_s: float | None
    """How long after it began a problem of the camera's health was told; None if none was, or it was over at the end."""


def _make_fault(engine: Engine, limits: Thresholds, fault: Fault, recording: Recording, seed: int) -> _Outcome | None:
    """None if the footage does not allow the fault."""
    frames = fault.apply(recording, np.random.default_rng(seed))
    if frames is None:
        return None
    scores = score_footage(engine, _named(fault.name, frames), fps=recording.fps)
    states = list(health_states(recording, frames, fault.rate))
    scores[[not state.is_trusted for state in states]] = np.nan
    events = announced_events(DecisionRule(enter=limits.enter, exit=limits.exit), scores, recording.fps)
    told = next((number for number, state in enumerate(states[recording.first :]) if state.problem is not None), 0)
    return _Outcome(
        event=any(event.active[-1] >= recording.first for event in events),
        told_s=None if states[-1].problem is None else told / (fault.rate * recording.fps),
    )


def _named(name: str, frames: Any) -> Footage:
    return Footage(name, frames, np.arange(len(frames), dtype=np.int64), len(frames), ())
