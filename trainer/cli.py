"""The command line ``oddsight-train``."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy import console

if TYPE_CHECKING:
    from rich.console import Console

    from deploy.calibration import Calibration
    from trainer.benchmark.run import BenchmarkResult

app = typer.Typer(
    help="Train on normal footage: makes, calibrates and evaluates bundles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_BundlePath = Annotated[Path, typer.Option("--bundle", help="The bundle: a folder made by fit.")]
_OptionalBundlePath = Annotated[
    Path | None, typer.Option("--bundle", help="The bundle: a folder made by fit.", show_default="the shipped one")
]


def main() -> None:
    """Entry point."""
    console.run(app)


@app.command()
def fit(
    data: Annotated[
        list[Path],
        typer.Option(help="Normal footage: a data set, a folder of frames or videos, or a video file; once for each camera."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    model: Annotated[str, typer.Option(help="video-ede, video-ganomaly, ganomaly, ama or esad.")] = "video-ede",
    seed: Annotated[int, typer.Option(help="On a CPU, the same seed, footage and number of steps give the same bundle.")] = 0,
    max_minutes: Annotated[float, typer.Option(help="Time for training steps, without decoding and export.")] = 14.0,
    patience: Annotated[int, typer.Option(help="Stop after this many validations without a smaller loss.")] = 20,
    precision: Annotated[str, typer.Option(help="f32, or bf16 for matrix products in bfloat16.")] = "f32",
    feedback: Annotated[
        Path | None, typer.Option(help="Annotations of operators: a CSV file, or a folder with one, or with clips.")
    ] = None,
    from_bundle: Annotated[
        str | None, typer.Option("--from", help="Adapt this bundle's network instead of a new one; default: the shipped bundle.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Frames per clip; 1 for single pictures (not video-ganomaly).", show_default="5")
    ] = None,
) -> None:
    """Train on normal footage and write a bundle. After an interruption the same command resumes.

    The last tenth of plain footage (not of a data set with testing/) is set aside: OUT/unusual.json and OUT/unusual/*.jpg show
    what the model finds unusual there, and whether the footage was enough. What --data takes: oddsight-train datasets.

    With several --data one network learns from all cameras, each weighing the same. The bundle's default profile is the median
    one; learn each camera's own with enrol.

    --feedback (video-ede only): lines video,first_frame,last_frame,mark[,x,y,width,height] with mark anomaly or normal, frames
    numbered from 0, both included, the event's region in pixels; or a folder with such a marks.csv, or with clips in anomaly/
    and normal/. See docs/train.md.

    Losses and pictures for TensorBoard: tensorboard --logdir OUT/log. With several processes:
    torchrun --nproc-per-node 2 -m trainer.cli fit ...
    """
    from deploy.bundle import DEFAULT_BUNDLE
    from trainer import fit as training
    from trainer.export import check_engines

    screen = _screen()
    settings = {"model": model, "seed": seed, "precision": precision, "feedback": feedback}
    settings |= {"from_bundle": DEFAULT_BUNDLE if from_bundle == "default" else from_bundle}
    settings |= {"max_minutes": max_minutes, "patience": patience, "network": {} if length is None else {"length": length}}
    try:
        bundle = training.fit(data, out, training.validated(training.FitConfig.model_validate, settings), screen)
    except KeyboardInterrupt:
        screen.print("interrupted: run the same command again to go on")
        raise
    if bundle is None:
        return
    for line in check_engines(bundle):
        screen.print(line, highlight=False)
    screen.print(_promise(bundle.calibration), highlight=False)
    screen.print(f"bundle {bundle.model_id} in {out}", highlight=False)


@app.command()
def calibrate(
    bundle: _BundlePath, data: Annotated[Path, typer.Option(help="Normal footage of the place that the model monitors.")]
) -> None:
    """Recalibrate the thresholds of a bundle on normal footage."""
    from trainer.calibrate import calibrate as recalibrate

    _screen().print(_promise(recalibrate(bundle, data).calibration), highlight=False)


@app.command()
def enrol(
    camera_id: Annotated[str, typer.Option(help="The camera's id in the stream.")],
    data: Annotated[Path, typer.Option(help="Normal footage of the camera, as for fit.")],
    out: Annotated[Path, typer.Option(help="File to write the profile to.")],
    bundle: _OptionalBundlePath = None,
    adapt: Annotated[bool, typer.Option(help="Adapt the network to the camera: better, but takes minutes.")] = True,
    feedback: Annotated[
        Path | None, typer.Option(help="Annotations of operators, as for fit: what they called normal raises no event again.")
    ] = None,
) -> None:
    """Learn what is normal at one camera, for a network that was trained on others: some minutes, however much footage.

    Give it 10 minutes of footage or more. It goes to the service with oddsight-stream cameras import, see docs/operate.md.

    --feedback takes what fit takes, and the folder feedback/ that oddsight-stream evidence fills. Of a file that names cameras
    only the marks of this one count. A table says what they changed. See docs/train.md.
    """
    from deploy.bundle import DEFAULT_BUNDLE, read_bundle
    from deploy.profile import require_replaceable, write_profile
    from trainer import marks
    from trainer.enrol import enrol as learn
    from trainer.mark_report import print_changes

    screen, chosen = _screen(), read_bundle(bundle or DEFAULT_BUNDLE)
    require_replaceable(out, camera_id)
    annotations = [] if feedback is None else marks.camera_marks(feedback, camera_id, data, screen)
    profile = learn(chosen, camera_id, data, screen, adapt=adapt)
    if annotations:
        profile, changes = marks.learn_marks(chosen, profile, annotations, screen)
        print_changes(screen, changes, profile.info.calibration, profile.info.calibration)
    write_profile(out, profile)
    screen.print(_promise(profile.info.calibration), highlight=False)
    screen.print(f"profile {profile.profile_id} from {profile.info.frames} frames in {out}", highlight=False, markup=False)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="A data set with test clips; see oddsight-train datasets.")],
    bundle: _OptionalBundlePath = None,
    profile: Annotated[
        Path | None, typer.Option(help="A camera's profile.", show_default="learned from the data set's training clips")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    engine: Annotated[str, typer.Option(help="Engine to score with: openvino, onnx or torch.")] = "openvino",
    budget: Annotated[float, typer.Option(help="False events per camera and day that thresholds allow.", min=1e-6)] = 1.0,
    report: Annotated[Path | None, typer.Option(help="Folder for an HTML report.")] = None,
) -> None:
    """Compare the scores of a bundle, and of baselines without a network, with labels."""
    from deploy.bundle import DEFAULT_BUNDLE
    from trainer.evaluate import evaluate as measure
    from trainer.evaluation.result import as_json as in_json
    from trainer.evaluation.result import events_line, tables

    screen = _screen()
    if report is not None:
        from trainer.evaluation.report import prepare_folder, write_report

        prepare_folder(report)
    evaluation = measure(bundle or DEFAULT_BUNDLE, data, engine, screen, profile, budget)
    if as_json:
        typer.echo(json.dumps(in_json(evaluation)))
    else:
        output = _output()
        for table in tables(evaluation):
            output.print(table)
        if evaluation.model.events is not None:
            output.print(events_line(evaluation.model.events), highlight=False)
    if report is not None:
        screen.print(f"report: {write_report(evaluation, report, screen)}", highlight=False, markup=False)


@app.command()
def datasets() -> None:
    """List the supported data sets: their files, where to get them, and their terms of use."""
    from trainer.data.datasets import describe_layouts

    typer.echo(describe_layouts())


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder to write the data sets to, one for each camera.")],
    cameras: Annotated[int, typer.Option(help="Number of cameras; each has another view, ground, light and frame rate.")] = 8,
    minutes: Annotated[float, typer.Option(help="Minutes of ordinary footage for each camera.")] = 4.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same footage.")] = 0,
) -> None:
    """Render footage of cameras that do not exist: ordinary footage to train on, and test clips with labelled anomalies.

    People walk, wait and meet in plazas, streets, parks and halls; in the test clips somebody runs, falls, cycles, drives, leaves
    a bag, pushes a trolley or walks where nobody else does. Each folder below OUT is a data set for --data of fit and evaluate.
    """
    from trainer.scenes.data_set import make_scenes

    screen = _screen()
    for folder in make_scenes(out, cameras, minutes, seed, screen):
        screen.print(f"{folder}", highlight=False, markup=False)


@app.command()
def panel(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of scenes: data sets, and folders of ordinary footage.")],
    mode: Annotated[
        Literal["enrol", "fit"], typer.Option(help="enrol: a profile for one network; fit: a network for each scene.")
    ] = "enrol",
    bundle: _OptionalBundlePath = None,
    out: Annotated[Path, typer.Option(help="Folder for profiles, bundles and results.")] = Path("panel"),
    budget: Annotated[float, typer.Option(help="False events per camera and day that thresholds allow.", min=1e-6)] = 1.0,
    max_minutes: Annotated[float, typer.Option(help="Training time of each network, with --mode fit.")] = 14.0,
    ordinary_minutes: Annotated[
        float, typer.Option(help="Minutes of each ordinary clip in which false events are counted.", min=0.1)
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Learn every scene of a folder by one recipe, and measure detection, false events and scripted faults.

    A scene is a data set with test clips, or a folder with training/ alone: ordinary footage, of which every other clip is
    learned from and the rest is counted. After an interruption the same command resumes.
    """
    from deploy.bundle import DEFAULT_BUNDLE, read_bundle
    from trainer.panel.report import panel_json, panel_tables
    from trainer.panel.run import PanelConfig, run_panel

    config = PanelConfig(mode, read_bundle(bundle or DEFAULT_BUNDLE), budget, max_minutes, ordinary_minutes)
    results = run_panel(data, out, config, _screen())
    if as_json:
        typer.echo(json.dumps(panel_json(results)))
    else:
        for table in panel_tables(results):
            _output().print(table)


@app.command()
def benchmark(
    dataset: Annotated[str, typer.Argument(help="mnist, fashion-mnist or odds.")],
    model: Annotated[str, typer.Option(help="ganomaly, ama or esad.")],
    data: Annotated[Path, typer.Option(help="The folder with mnist.npz, fashion_mnist.npz or the .mat files of ODDS.")],
    out: Annotated[Path | None, typer.Option(help="File of finished runs.", show_default="benchmark-DATASET-MODEL.jsonl")] = None,
    grid: Annotated[str, typer.Option(help="small: one anomaly class each, ratios 0, 0.01, 0.2; full: all pairs.")] = "small",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", show_default="2; 5 for odds")] = None,
    classes: Annotated[str | None, typer.Option(help="Normal classes, such as 0,3; for ganomaly abnormal ones.")] = None,
    ratios: Annotated[str | None, typer.Option(help="Ratios of labelled anomalies, such as 0,0.2; for esad.")] = None,
    sets: Annotated[str | None, typer.Option(help="Tables of ODDS, such as satellite,cardio.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Number of processes, with one thread each.", show_default="cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Measure a model by the protocol of its paper. After an interruption the same command resumes."""
    from trainer.benchmark.protocols import parse_selection, plan_runs
    from trainer.benchmark.report import BenchmarkBar
    from trainer.benchmark.results import process_count
    from trainer.benchmark.run import benchmark as run_benchmark
    from trainer.benchmark.run import make_jobs

    selection = parse_selection(grid, seeds, classes=classes, ratios=ratios, sets=sets)
    planned = make_jobs(plan_runs(dataset, model, selection), data)
    with BenchmarkBar(_screen(), quiet=as_json) as bar:
        result = run_benchmark(planned, out or Path(f"benchmark-{dataset}-{model}.jsonl"), process_count(jobs), bar)
    _print_benchmark(result, f"{dataset} {model}", as_json=as_json)


def _print_benchmark(result: "BenchmarkResult", title: str, *, as_json: bool) -> None:
    from trainer.benchmark.report import benchmark_json, benchmark_table
    from trainer.errors import RunsUnfinished

    if as_json:
        typer.echo(json.dumps(benchmark_json(result)))
    elif result.finished:
        _output().print(benchmark_table(result.finished, title))
    if result.failed:
        raise RunsUnfinished(f"{len(result.failed)} of {len(result.failed) + len(result.finished)} runs failed, see above")


def _screen() -> "Console":
    """Progress and messages, on stderr. Under torchrun only the first process prints."""
    from rich.console import Console

    return Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")


def _output() -> "Console":
    """Results, on stdout."""
    from rich.console import Console

    # Without a terminal, Rich would fit tables into 80 columns.
    return Console(width=None if sys.stdout.isatty() else 140)


def _promise(calibration: "Calibration") -> str:
    """What thresholds at the default budget promise, in words."""
    from deploy.calibration import DEFAULT_BUDGET, thresholds
    from deploy.decision import DecisionTimes
    from trainer.evaluation.result import duration, rate

    limits = thresholds(calibration, DEFAULT_BUDGET, DecisionTimes())
    return (
        f"calibration {calibration.calibration_id} from {duration(calibration.observed_s)}: enter {limits.enter:.3g}, exit "
        f"{limits.exit:.3g} for a budget of {DEFAULT_BUDGET:g} false event a day; at most {rate(limits.bound)} a day (95 %)"
    )


if __name__ == "__main__":
    main()
