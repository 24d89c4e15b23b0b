"""``oddsight-deploy``: look at a bundle, and try its engines on this machine."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deploy.console import run
from deploy.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.against import Inferencer
    from deploy.bundle import Bundle
    from deploy.engine import Precision
    from deploy.optimize import Goal, Outcome, Trial
    from deploy.variants import Variant
    from deploy.verify import Verdict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at a bundle, and try its engines on this machine.",
)

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that oddsight-train made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

ANOMALIB_SIZES_PX = (256, 64)
"""Its default, and a small one."""


def main() -> None:
    """Entry point."""
    run(app)


@app.command()
def inspect(bundle: BundleFolder, as_json: AsJson = False) -> None:
    """Show what a bundle holds: model, clips, calibration, metrics, files. Checks every file first."""
    from deploy.bundle import read_bundle

    content = _content(read_bundle(bundle))
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    _print_tables([_value_table(title, values) for title, values in content.items()])


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
    from deploy.verify import passed, verify_engine

    verified = read_bundle(bundle)
    verdicts = [verify_engine(verified, name, offer) for name, offer in _wanted(engine, precision)]
    good = passed(verdicts, asked_for=bool(engine or precision))
    if as_json:
        typer.echo(json.dumps({"passed": good, "engines": [_plain(verdict) for verdict in verdicts]}, indent=2))
    else:
        _print_verdicts(verdicts)
    raise typer.Exit(0 if good else 1)


@app.command()
def build(
    bundle: BundleFolder,
    engine: Annotated[Literal["tensorrt", "tensorrt-rtx"], typer.Option(help="tensorrt-rtx needs no GPU to build.")] = "tensorrt",
    precision: Annotated[
        Literal["f16", "f32", "int8"],
        typer.Option(help="Of convolutions and matrix products; int8: of convolutions that bear it."),
    ] = "f16",
    bucket: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, help="Clips a call; may be given again. Default: 1, 8, 32 and 128.")
    ] = None,
    profiles: Annotated[
        Literal["static", "wide"], typer.Option(help="One profile a bucket, or one for all, tuned for the largest.")
    ] = "static",
    level: Annotated[int, typer.Option(min=0, max=5, help="How long the builder looks for faster kernels.")] = 3,
    workspace_mib: Annotated[int, typer.Option(min=1, help="Most GPU memory that one kernel may take for itself.")] = 4096,
    max_plan_mib: Annotated[int, typer.Option(min=1, help="A larger plan is an error.")] = 1024,
    as_json: AsJson = False,
) -> None:
    """Build a bundle's plan for the GPU that is here, and put it to the gate. A plan that is up to date is left as it is.

    TensorRT for RTX builds without a GPU as well; the gate then waits for oddsight-deploy verify on a machine that has one.
    """
    from deploy.bundle import read_bundle
    from deploy.tensorrt.make import make_plan
    from deploy.tensorrt.options import read_options
    from deploy.verify import verify_engine

    options = read_options(
        buckets=bucket or None, profiles=profiles, level=level, workspace_mib=workspace_mib, max_plan_mib=max_plan_mib
    )
    verified = read_bundle(bundle)
    with _progress("building") as tell:
        variant = make_plan(verified, engine, precision, options, lambda _phase, done, total: tell(done, total))
    verdict = verify_engine(verified, engine, precision)
    if as_json:
        typer.echo(json.dumps({"built": variant.model_dump(mode="json"), "verdict": _plain(verdict)}, indent=2))
    else:
        _print_tables([_value_table(f"{engine} {precision}", _kept(variant))])
        _print_verdicts([verdict])
    raise typer.Exit(0 if verdict.status in {"ok", "unavailable"} else 1)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder that oddsight-train made.")],
    batch: Annotated[
        list[int] | None, typer.Option(min=1, max=1024, help="Clips a call; may be given again. Default: 1, 8 and 32.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure this engine only; may be given again. Default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured, in turns, 0.6 s each time.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of one call; 0: the engine's own choice.")] = 0,
    tune: Annotated[Literal["throughput", "latency"], typer.Option(help="What threads and streams are set for.")] = "throughput",
    anomalib: Annotated[
        Path | None,
        typer.Option(
            metavar="PYTHON", help="Python of an environment with anomalib[openvino]; measured beside the engines, in turns."
        ),
    ] = None,
    anomalib_size: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=16, max=1024, help="Give anomalib pictures of N x N; may be given again. Default: 256 and 64."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure speed, CPU time, latency and memory of each engine, precision and batch, beside what this machine allows."""
    from deploy.bench import Plan, benchmark
    from deploy.bundle import read_bundle

    plan = Plan(tuple(_wanted(engine, None)), tuple(batch or (1, 8, 32)), rounds, threads, tune)
    verified = read_bundle(bundle)
    with _inferencers(anomalib, anomalib_size, threads) as inferencers, _progress("measuring") as tell:
        report = {"model_id": verified.model_id, **benchmark(verified, plan, tell, inferencers)}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        from deploy.bench_tables import bench_tables

        _print_tables(bench_tables(report))
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
    from deploy.bundle import read_bundle
    from deploy.camera_load import CameraLoad
    from deploy.errors import EngineRefused
    from deploy.optimize import Goal
    from deploy.optimize import optimize as choose

    goal = Goal(CameraLoad(cameras, frame_rate), latency_ms)
    verified = read_bundle(bundle)
    with _progress("trying") as tell:
        outcome = choose(verified, goal, tell)
    trials = [_tried(trial, outcome, goal) for trial in outcome.trials]
    if as_json:
        report = {"model_id": verified.model_id, **asdict(goal), "shortfall": outcome.shortfall, "trials": trials}
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_tables([_trials_table(trials)])
    if outcome.winner is None:
        raise EngineRefused(f"{bundle}: no engine passed the gate; the bundle's default is as it was")
    if outcome.shortfall is not None:
        typer.echo(f"warning: {outcome.shortfall}", err=True)


@contextmanager
def _inferencers(python: Path | None, sizes_px: list[int] | None, threads: int) -> "Iterator[list[Inferencer]]":
    """Of anomalib, if they are asked for."""
    from deploy.against import anomalib_inferencers

    if python is None:
        if sizes_px:
            raise ConfigError(f"--anomalib-size needs --anomalib PYTHON, got {sizes_px[0]} alone")
        yield []
        return
    with ExitStack() as stack:
        with _progress("loading anomalib"):
            loaded = stack.enter_context(anomalib_inferencers(python, sizes_px or ANOMALIB_SIZES_PX, threads))
        yield loaded


def _wanted(engines: list[str] | None, precision: "Precision | None") -> "list[tuple[str, Precision]]":
    """Engines and precisions to try: all there are; an engine asked for by name also in a precision that it lacks, to say so."""
    from deploy.engine import PRECISIONS

    if precision and engines:
        return [(name, precision) for name in engines]
    return [
        (name, offered)
        for name in engines or PRECISIONS
        for offered in PRECISIONS.get(name, ("f32",))
        if precision in (None, offered)
    ]


def _content(bundle: "Bundle") -> dict[str, dict[str, Any]]:
    from deploy.default import read_default
    from deploy.variants import read_variants

    manifest, default = bundle.manifest, read_default(bundle)
    return {
        "model": {"model_id": manifest.model_id, "kind": manifest.model.kind, "config": manifest.model.config},
        "spec": manifest.spec.model_dump(),
        "calibration": {"calibration_id": bundle.calibration.calibration_id, **bundle.calibration.model_dump()},
        "metrics": manifest.metrics,
        "versions": manifest.versions,
        "engines": {f"{kept.engine} {kept.precision}": _kept(kept) for kept in read_variants(bundle)},
        "default engine": {} if default is None else default.model_dump(mode="json"),
        "files": {name: {"bytes": bundle.file(name).stat().st_size, "sha256": sha256} for name, sha256 in manifest.files.items()},
    }


def _kept(variant: "Variant") -> dict[str, Any]:
    gate, plan = variant.gate, variant.plan
    tried = {"rank_correlation": gate.spearman, "failures": gate.failures} if gate else {}
    built = {"plan": plan.model_dump()} if plan else {}
    return {"passed": gate.passed if gate else "not tried yet", **tried, **variant.fingerprint, **built}


def _plain(verdict: "Verdict") -> dict[str, Any]:
    """A verdict as plain values."""
    return {**asdict(verdict), "gate": verdict.gate and {"passed": verdict.gate.passed, **verdict.gate.model_dump()}}


def _value_table(title: str, values: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table


def _print_verdicts(verdicts: "list[Verdict]") -> None:
    """A table of what could be tried; below it, a line each, what there is to say of them and why others could not be."""
    from rich.table import Table

    columns = "engine", "precision", "status", "score error", "heat map error", "state error", "rank correlation"
    table = Table(*columns, caption="the largest errors of float32, the median ones of other precisions")
    tried = [verdict for verdict in verdicts if verdict.status != "unavailable"]
    for verdict in tried:
        table.add_row(verdict.engine, verdict.precision, verdict.status, *_errors(verdict))
    _print_tables([table] if tried else [])
    for verdict in verdicts:
        note = "not available here: " if verdict.status == "unavailable" else ""
        typer.echo(f"{verdict.engine} {verdict.precision}: {note}{verdict.detail}")


def _tried(trial: "Trial", outcome: "Outcome", goal: "Goal") -> dict[str, Any]:
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


def _trials_table(trials: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    columns = "engine", "precision", "tune", "", "scored", "clips/s", "CPU ms a clip", "p50 ms", "p95 ms", "busy", "detail"
    caption = "best: now the bundle's default; scored: of the clips that came; ms: from a clip's coming to its score"
    table = Table(*columns, caption=caption)
    for trial in trials:
        word = "best" if trial["best"] else trial["judgement"] or trial["status"]
        tried = (trial[name] for name in ("engine", "precision", "tune"))
        table.add_row(*tried, word, *_load_figures(trial["figures"]), trial["detail"])
    return table


def _load_figures(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return [""] * 6
    speed = f"{figures['scored_share']:.1%}", f"{figures['clips_per_s']:.1f}", f"{figures['cpu_s_per_clip'] * 1000:.2f}"
    latencies = (f"{figures['latency_ms'][rank]:.0f}" for rank in ("p50", "p95"))
    return [*speed, *latencies, f"{figures['busy_share']:.0%}"]


def _errors(verdict: "Verdict") -> list[str]:
    correlation = "" if verdict.gate is None else f"{verdict.gate.spearman:.4f}"
    if verdict.parity is None:
        return ["" if verdict.gate is None else f"{verdict.gate.median_error:.1e}", "", "", correlation]
    errors = verdict.parity.max_score_error, verdict.parity.max_heatmap_error, verdict.parity.max_state_error
    return [*("" if error is None else f"{error:.1e}" for error in errors), correlation]


@contextmanager
def _progress(what: str) -> "Iterator[Callable[[int, int], None]]":
    """A bar on stderr, so that stdout holds the result alone."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_tables(tables: "list[Table]") -> None:
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)  # a value may hold [brackets]
    for table in tables:
        console.print(table)
