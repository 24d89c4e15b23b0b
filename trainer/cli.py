"""``oddsight-train``: fit, calibrate, evaluate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deploy.bundle import Bundle

app = typer.Typer(
    help="Learn from normal footage: footage in, a trained, calibrated and evaluated bundle out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_BundlePath = Annotated[Path, typer.Option("--bundle", help="The bundle: a folder made by fit.", show_default=False)]


def main() -> None:
    """Entry point."""
    console.run(app)


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Normal footage: a data set, a folder of frames or videos, or a video file.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    model: Annotated[str, typer.Option(help="Which network to train.")] = "video-ganomaly",
    seed: Annotated[int, typer.Option(help="The same seed, footage and number of steps give the same bundle on a CPU.")] = 0,
    max_minutes: Annotated[float, typer.Option(help="Time for training steps; decoding and export come on top.")] = 8.0,
) -> None:
    """Train on normal footage and write a bundle. After an interruption the same command goes on."""
    from trainer import fit as training
    from trainer.config import fit_config
    from trainer.parity import check_engines

    screen = _screen()
    config = fit_config({"model": model, "seed": seed, "max_minutes": max_minutes})
    bundle = training.fit(data, out, config, screen)
    for line in check_engines(bundle):
        screen.print(line, highlight=False)
    screen.print(_calibration_line(bundle), highlight=False)
    screen.print(f"bundle {bundle.model_id} in {out}", highlight=False)


@app.command()
def calibrate(
    bundle: _BundlePath,
    data: Annotated[Path, typer.Option(help="Normal footage of the place the model will watch.")],
) -> None:
    """Give a bundle new thresholds, from own normal footage."""
    from trainer.calibrate import calibrate as recalibrate

    _screen().print(_calibration_line(recalibrate(bundle, data)), highlight=False)


@app.command()
def evaluate(
    bundle: _BundlePath,
    data: Annotated[Path, typer.Option(help="A data set with testing/ and frame_labels.npz.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
    engine: Annotated[str, typer.Option(help="Engine to score with: openvino, onnx or torch.")] = "openvino",
) -> None:
    """Compare a bundle's scores with labels, beside the classical baseline."""
    from rich.console import Console

    from trainer.evaluate import evaluate as measure

    screen = _screen()
    with screen.status("reading the bundle") as status:
        result = measure(bundle, data, engine, status.update)
    if as_json:
        typer.echo(json.dumps(result))
        return
    output = Console()
    output.print(_table(result))
    output.print(_events_line(result), highlight=False)


def _screen() -> "Console":
    """Progress and remarks go to stderr: stdout is for results."""
    from rich.console import Console

    return Console(stderr=True)


def _calibration_line(bundle: "Bundle") -> str:
    found = bundle.calibration
    return (
        f"calibration {found.calibration_id} from {found.frames} normal frames: median {found.median:.3g}, "
        f"q99 {found.q99:.3g}, enter {found.enter:.3g}, exit {found.exit:.3g}"
    )


def _table(result: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=f"{result['frames']} frames of {result['clips']} clips")
    for heading in ("", "streaming AUC", "mean clip AUC", "literature AUC"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, figures in {result["model_id"]: result, **result["baselines"]}.items():
        streaming = figures["streaming"]
        values = (streaming["frame_auc"], streaming["mean_clip_auc"], figures["literature"]["frame_auc"])
        table.add_row(name, *("-" if value is None else f"{value:.4f}" for value in values))
    return table


def _events_line(result: dict[str, Any]) -> str:
    events = result["events"]
    delay = "" if events["median_delay_s"] is None else f", median delay {events['median_delay_s']:.1f} s"
    return (
        f"events: {events['found']} of {events['true']} found{delay}; {events['false']} false, "
        f"{events['false_per_camera_hour']:g} per camera and hour"
    )
