"""``oddsight-deploy``: look at a bundle, and try its engines on this machine."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.console import run
from deploy.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.engine import Precision
    from deploy.export.tensorrt import Tell
    from deploy.validation.admission import VerifyResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at a bundle, and try its engines on this machine.",
)

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that oddsight-train made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def main() -> None:
    """Entry point."""
    run(app)


@app.command()
def inspect(bundle: BundleFolder, as_json: AsJson = False) -> None:
    """Show what a bundle holds: model, clips, calibration, metrics, files. Checks every file first."""
    from deploy.bundle import read_bundle
    from deploy.report import bundle_content, value_table

    content = bundle_content(read_bundle(bundle))
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    _print_tables([value_table(title, values) for title, values in content.items()])


@app.command()
def verify(
    bundle: BundleFolder,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Try this engine only; may be given again. Default: all.")
    ] = None,
    precision: Annotated[
        Literal["f32", "bf16", "f16", "int8"] | None,
        typer.Option(help="Try this precision only. Default: all that an engine has."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare each engine's scores with the reference's, and keep in the bundle which may be put to work on this machine.

    Float32 engines must give the same numbers. Others watch the golden sequences, and are refused where frames change order.
    Exit code 1 if a float32 engine fails, if what was asked for does not pass, or nothing does.
    """
    from deploy.bundle import read_bundle
    from deploy.report import verdict_values
    from deploy.validation.admission import passed, verify_engine

    verified = read_bundle(bundle)
    verdicts = [verify_engine(verified, name, offer) for name, offer in _wanted(engine, precision)]
    good = passed(verdicts, asked_for=bool(engine or precision))
    if as_json:
        typer.echo(json.dumps({"passed": good, "engines": [verdict_values(verdict) for verdict in verdicts]}, indent=2))
    else:
        _print_verdicts(verdicts)
    raise typer.Exit(0 if good else 1)


@app.command()
def build(
    bundle: BundleFolder,
    engine: Annotated[Literal["tensorrt", "tensorrt-rtx"], typer.Option(help="tensorrt-rtx needs no GPU to build.")] = "tensorrt",
    precision: Annotated[
        Literal["f16", "f32", "int8"],
        typer.Option(help="Of convolutions and matrix products; int8: of convolutions that bear it, by --calibration-data."),
    ] = "f16",
    calibration_data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="int8: a camera's JPEGs and PNGs in order of name, or such folders; may be given again. "
            "Never those that the bundle's golden sequences are of. A graph that is kept does without.",
        ),
    ] = None,
    bucket: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, help="Clips a call; may be given again. Default: 1, 8, 32 and 128.")
    ] = None,
    profiles: Annotated[
        Literal["static", "wide"], typer.Option(help="One profile a bucket, or one for all, tuned for the largest.")
    ] = "static",
    optimization_level: Annotated[int, typer.Option(min=0, max=5, help="How long the builder looks for faster kernels.")] = 3,
    workspace_mib: Annotated[int, typer.Option(min=1, help="Most GPU memory that one kernel may take for itself.")] = 4096,
    max_plan_mib: Annotated[int, typer.Option(min=1, help="A larger plan is an error.")] = 1024,
    as_json: AsJson = False,
) -> None:
    """Build a bundle's plan for the GPU that is here, and put it to the gate. A plan that is up to date is left as it is.

    TensorRT for RTX builds without a GPU as well; the gate then waits for oddsight-deploy verify on a machine that has one.
    """
    from deploy.bundle import read_bundle
    from deploy.export.calibration_frames import read_calibration_frames
    from deploy.export.tensorrt import make_plan
    from deploy.records import read_build_options
    from deploy.report import value_table, variant_values, verdict_values
    from deploy.validation.admission import verify_engine

    if calibration_data and precision != "int8":
        raise ConfigError(f"--calibration-data is for --precision int8, got --precision {precision}")
    options = read_build_options(
        buckets=bucket or None,
        profiles=profiles,
        optimization_level=optimization_level,
        workspace_mib=workspace_mib,
        max_plan_mib=max_plan_mib,
    )
    verified = read_bundle(bundle)
    footage = read_calibration_frames(calibration_data, verified) if calibration_data else None
    with _building() as tell:
        variant = make_plan(verified, engine, precision, options, tell, footage)
    verdict = verify_engine(verified, engine, precision)
    if as_json:
        typer.echo(json.dumps({"built": variant.model_dump(mode="json"), "verdict": verdict_values(verdict)}, indent=2))
    else:
        _print_tables([value_table(f"{engine} {precision}", variant_values(variant))])
        _print_verdicts([verdict])
    raise typer.Exit(0 if verdict.status in {"ok", "unavailable"} else 1)


@app.command()
def bench(
    bundle: BundleFolder,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, help="Clips a call; may be given again. Default: 1, 8 and 32.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure this engine only; may be given again. Default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured, in turns, 0.6 s each time.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of one call; 0: the engine's own choice.")] = 0,
    performance_hint: Annotated[
        Literal["throughput", "latency"], typer.Option(help="What threads and streams are tuned for.")
    ] = "throughput",
    as_json: AsJson = False,
) -> None:
    """Measure speed, CPU time, latency and memory of each engine, precision and batch, beside what this machine allows."""
    from deploy.benchmark.run import BenchmarkPlan, benchmark
    from deploy.bundle import read_bundle
    from deploy.report import benchmark_table

    plan = BenchmarkPlan(tuple(_wanted(engine, None)), tuple(batch or (1, 8, 32)), rounds, threads, performance_hint)
    verified = read_bundle(bundle)
    with _progress("measuring") as tell:
        report = {"model_id": verified.model_id, **benchmark(verified, plan, tell)}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_tables([benchmark_table(report)])
        for name, reason in report["left_out"].items():
            typer.echo(f"left out: {name}: {reason}")


@app.command()
def optimize(
    bundle: BundleFolder,
    cameras: Annotated[int, typer.Option(metavar="N", help="How many cameras this machine is to serve.")],
    frame_rate: Annotated[float, typer.Option(metavar="F", help="Frames a second of each of them.")],
    latency_ms: Annotated[
        float | None, typer.Option(metavar="L", help="95 % of the frames must have their score within this time. Default: any.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try what this machine can run, measure what passes the gate at the load of so many cameras, keep the best in the bundle.

    oddsight-stream run then takes it wherever the settings leave the engine open. Takes a minute or two.
    Exit code 1 if nothing passes. If nothing keeps up the fastest is kept, and a warning on stderr says what it can carry.
    """
    from deploy.benchmark.load_test import CameraLoad
    from deploy.bundle import read_bundle
    from deploy.errors import EngineRefused
    from deploy.report import reason_line, trial_values, trials_table
    from deploy.selection.optimize import Goal
    from deploy.selection.optimize import optimize as choose

    goal = Goal(CameraLoad(cameras, frame_rate), latency_ms)
    verified = read_bundle(bundle)
    with _progress("trying") as tell:
        outcome = choose(verified, goal, tell)
    trials = [trial_values(trial, outcome, goal) for trial in outcome.trials]
    if as_json:
        report = {"model_id": verified.model_id, **asdict(goal), "shortfall": outcome.shortfall, "trials": trials}
        typer.echo(json.dumps(report, indent=2))
    else:
        measured = [trial for trial in trials if trial["figures"] is not None]
        _print_tables([trials_table(measured)] if measured else [])
        for trial in trials:
            if trial not in measured:
                typer.echo(reason_line(trial["engine"], trial["precision"], trial["status"], trial["detail"]))
    if outcome.winner is None:
        raise EngineRefused(f"{bundle}: no engine passed the gate; the bundle's default is as it was")
    if outcome.shortfall is not None:
        typer.echo(f"warning: {outcome.shortfall}", err=True)


def _wanted(engines: list[str] | None, precision: "Precision | None") -> "list[tuple[str, Precision]]":
    """Engines and precisions to try: all there are; an engine asked for by name also in a precision that it lacks, to say so."""
    from deploy.engines.registry import PRECISIONS

    if precision and engines:
        return [(name, precision) for name in engines]
    return [
        (name, offered)
        for name in engines or PRECISIONS
        for offered in PRECISIONS.get(name, ("f32",))
        if precision in (None, offered)
    ]


def _print_verdicts(verdicts: "list[VerifyResult]") -> None:
    """A table of what could be tried; below it, a line each, what there is to say of them and why others could not be."""
    from deploy.report import reason_line, verdict_table

    tried = [verdict for verdict in verdicts if verdict.status != "unavailable"]
    _print_tables([verdict_table(tried)] if tried else [])
    for verdict in verdicts:
        typer.echo(reason_line(verdict.engine, verdict.precision, verdict.status, verdict.detail))


@contextmanager
def _building() -> "Iterator[Tell]":
    """A bar that tells choosing from building; of the library's own phases there are too many to name."""
    from deploy.export.tensorrt import CHOOSING

    with _progress("building") as tell:
        yield lambda phase, done, total: tell(done, total, phase if phase == CHOOSING else "building")


@contextmanager
def _progress(what: str) -> "Iterator[Callable[..., None]]":
    """A bar on stderr, so that stdout holds the result alone. It is told of finished parts, of all, and of what they are of."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, now=what: bar.update(task, description=now, completed=done, total=total)


def _print_tables(tables: "list[Table]") -> None:
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)  # a value may hold [brackets]
    for table in tables:
        console.print(table)
