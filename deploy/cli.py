"""``oddsight-deploy``: inspect a bundle, and validate, build, benchmark and choose its engines on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.console import print_tables, progress_bar, run
from deploy.errors import ConfigError

if TYPE_CHECKING:
    from deploy.engine import Precision
    from deploy.validation.admission import VerifyResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Inspect a bundle, and validate, build, benchmark and choose its engines on this machine.",
)

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that oddsight-train made.")]
CalibrationData = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="int8: a camera's JPEGs and PNGs in order of name, or a folder of such folders; may be given again. "
        "They must not show the bundle's golden sequences. Not needed if the int8 graph was made before.",
    ),
]
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
    else:
        print_tables([value_table(title, values) for title, values in content.items()])


@app.command()
def sign(
    bundle: BundleFolder,
    key: Annotated[Path, typer.Option(metavar="KEY", help="PEM file of a private key: openssl genpkey -algorithm ed25519.")],
) -> None:
    """Sign a bundle after checking its files, so that services can insist on who made it (engine.trusted_keys).

    What is built or validated on a machine, under engines/, is not covered. A change, such as a new calibration, takes the
    signature away.
    """
    from deploy.bundle import SIGNATURE_NAME, sign_bundle

    sign_bundle(bundle, key)
    typer.echo(f"signed: {bundle / SIGNATURE_NAME}")


@app.command()
def verify_signature(
    bundle: BundleFolder,
    trusted_keys: Annotated[
        Path, typer.Option(metavar="KEYS", help="PEM file of the public keys that are trusted: openssl pkey -in KEY -pubout.")
    ],
) -> None:
    """Check a bundle's files, and that one of the trusted keys has signed it."""
    from deploy.bundle import signed_by

    typer.echo(f"{bundle}: signed by the key {signed_by(bundle, trusted_keys)}, and every file is as it was signed")


@app.command()
def verify(
    bundle: BundleFolder,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Validate this engine only; may be given again. Default: all.")
    ] = None,
    precision: Annotated[
        Literal["f32", "bf16", "f16", "int8"] | None,
        typer.Option(help="Validate this precision only. Default: all that an engine has."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare each engine's scores with the reference's, and record in the bundle which ones passed on this machine.

    Float32 engines must give the same scores. Other precisions score the golden sequences, and fail if frames change order.
    Exit code 1 if a float32 engine fails, if an engine or precision asked for does not pass, or if none passes.
    """
    from deploy.bundle import read_bundle
    from deploy.report import verify_values
    from deploy.validation.admission import all_passed, verify_engine

    opened = read_bundle(bundle)
    results = [verify_engine(opened, name, offered) for name, offered in _engines(engine, precision)]
    passed = all_passed(results, requested=bool(engine or precision))
    if as_json:
        typer.echo(json.dumps({"passed": passed, "engines": [verify_values(result) for result in results]}, indent=2))
    else:
        _print_results(results)
    raise typer.Exit(0 if passed else 1)


@app.command()
def build(
    bundle: BundleFolder,
    engine: Annotated[Literal["tensorrt", "tensorrt-rtx"], typer.Option(help="tensorrt-rtx needs no GPU to build.")] = "tensorrt",
    precision: Annotated[
        Literal["f16", "f32", "int8"],
        typer.Option(help="Of convolutions and matrix products; int8: of the convolutions that keep the scores."),
    ] = "f16",
    calibration_data: CalibrationData = None,
    bucket: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, help="Batch size; may be given again. Default: 1, 8, 32 and 128.")
    ] = None,
    profiles: Annotated[
        Literal["static", "wide"], typer.Option(help="One profile for each bucket, or one for all, tuned for the largest.")
    ] = "static",
    optimization_level: Annotated[int, typer.Option(min=0, max=5, help="How long the builder searches for faster kernels.")] = 3,
    workspace_mib: Annotated[int, typer.Option(min=1, help="Limit of the GPU memory that one kernel may use.")] = 4096,
    max_plan_mib: Annotated[int, typer.Option(min=1, help="A larger plan is an error.")] = 1024,
    as_json: AsJson = False,
) -> None:
    """Build a bundle's TensorRT plan for this machine's GPU, and validate it. A plan that is up to date is not built again.

    TensorRT for RTX builds without a GPU; run oddsight-deploy verify on a machine that has one.
    """
    from deploy.bundle import read_bundle
    from deploy.export.tensorrt import QUANTIZING, make_plan
    from deploy.records import parse_build_options
    from deploy.report import record_values, value_table, verify_values
    from deploy.sequences import read_calibration_frames
    from deploy.validation.admission import verify_engine

    if calibration_data and precision != "int8":
        raise ConfigError(f"--calibration-data is for --precision int8, got --precision {precision}")
    options = parse_build_options(
        buckets=bucket or None,
        profiles=profiles,
        optimization_level=optimization_level,
        workspace_bytes=workspace_mib << 20,
        max_plan_bytes=max_plan_mib << 20,
    )
    opened = read_bundle(bundle)
    calibration = read_calibration_frames(calibration_data, opened) if calibration_data else None
    with progress_bar("building") as update:
        # TensorRT's own phases are too many to name.
        record = make_plan(
            opened,
            engine,
            precision,
            options,
            lambda phase, done, total: update(done, total, phase if phase == QUANTIZING else "building"),
            calibration,
        )
    result = verify_engine(opened, engine, precision)
    if as_json:
        typer.echo(json.dumps({"built": record.model_dump(mode="json"), "verdict": verify_values(result)}, indent=2))
    else:
        print_tables([value_table(f"{engine} {precision}", record_values(record))])
        _print_results([result])
    raise typer.Exit(0 if result.status in {"ok", "unavailable"} else 1)


@app.command()
def bench(
    bundle: BundleFolder,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, help="Clips in a call; may be given again. Default: 1, 8 and 32.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure this engine only; may be given again. Default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured, in turns, for 0.6 s each time.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of one call; 0: the engine's own choice.")] = 0,
    performance_hint: Annotated[
        Literal["throughput", "latency"], typer.Option(help="What threads and streams are tuned for.")
    ] = "throughput",
    as_json: AsJson = False,
) -> None:
    """Measure throughput, CPU time, latency and memory of each engine, precision and batch size, beside the machine's peaks."""
    from deploy.benchmark.run import BenchmarkPlan, benchmark
    from deploy.bundle import read_bundle
    from deploy.report import benchmark_table

    plan = BenchmarkPlan(tuple(_engines(engine, None)), tuple(batch or (1, 8, 32)), rounds, threads, performance_hint)
    opened = read_bundle(bundle)
    with progress_bar("measuring") as update:
        report = {"model_id": opened.model_id, **benchmark(opened, plan, update)}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_tables([benchmark_table(report)])
        for name, reason in report["left_out"].items():
            typer.echo(f"left out: {name}: {reason}")


@app.command()
def optimize(
    bundle: BundleFolder,
    cameras: Annotated[int, typer.Option(metavar="N", help="Number of cameras that this machine is to serve.")],
    frame_rate: Annotated[float, typer.Option(metavar="F", help="Frames a second of each camera.")],
    latency_ms: Annotated[
        float | None, typer.Option(metavar="L", help="95 % of the frames must have their score within this time. Default: any.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Validate all engines, measure those that pass under the load of so many cameras, and make the best the bundle's default.

    oddsight-stream run then uses it where the settings name no engine. Takes a minute or two.
    Exit code 1 if no engine passes. If none keeps up, the fastest is chosen, and a warning on stderr says what it can carry.
    """
    from dataclasses import asdict

    from deploy.benchmark import optimize as optimizer
    from deploy.benchmark.load_test import CameraLoad
    from deploy.bundle import read_bundle
    from deploy.errors import EngineRefused
    from deploy.report import detail_line, trial_values, trials_table

    goal = optimizer.Goal(CameraLoad(cameras, frame_rate), latency_ms)
    opened = read_bundle(bundle)
    with progress_bar("measuring") as update:
        result = optimizer.optimize(opened, goal, update)
    trials = [trial_values(trial, result, goal) for trial in result.trials]
    if as_json:
        report = {"model_id": opened.model_id, **asdict(goal), "shortfall": result.shortfall, "trials": trials}
        typer.echo(json.dumps(report, indent=2))
    else:
        measured = [trial for trial in trials if trial["figures"] is not None]
        print_tables([trials_table(measured)] if measured else [])
        for trial in trials:
            if trial not in measured:
                typer.echo(detail_line(trial["engine"], trial["precision"], trial["status"], trial["detail"]))
    if result.best is None:
        raise EngineRefused(f"{bundle}: no engine passed validation; the bundle's default is unchanged")
    if result.shortfall is not None:
        typer.echo(f"warning: {result.shortfall}", err=True)


def _engines(names: list[str] | None, precision: "Precision | None") -> "list[tuple[str, Precision]]":
    """Engines and precisions to run; an engine named by the user also in a precision that it lacks, so that this is reported."""
    from deploy.registry import PRECISIONS

    if precision and names:
        return [(name, precision) for name in names]
    return [
        (name, offered)
        for name in names or PRECISIONS
        for offered in PRECISIONS.get(name, ("f32",))
        if precision in (None, offered)
    ]


def _print_results(results: "list[VerifyResult]") -> None:
    from deploy.report import detail_line, verify_table

    available = [result for result in results if result.status != "unavailable"]
    print_tables([verify_table(available)] if available else [])
    for result in results:
        typer.echo(detail_line(result.engine, result.precision, result.status, result.detail))
