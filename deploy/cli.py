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
        Literal["f32", "bf16"] | None, typer.Option(help="Try this precision only. Default: all that an engine has.")
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
        _print_tables([_verdict_table(verdicts)])
    raise typer.Exit(0 if good else 1)


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

    plan = Plan(tuple(_wanted(engine, None)), tuple(batch or (1, 8, 32)), rounds, threads)
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
    from deploy.variants import read_variants

    manifest = bundle.manifest
    return {
        "model": {"model_id": manifest.model_id, "kind": manifest.model.kind, "config": manifest.model.config},
        "spec": manifest.spec.model_dump(),
        "calibration": {"calibration_id": bundle.calibration.calibration_id, **bundle.calibration.model_dump()},
        "metrics": manifest.metrics,
        "versions": manifest.versions,
        "engines": {f"{kept.engine} {kept.precision}": _kept(kept) for kept in read_variants(bundle)},
        "files": {name: {"bytes": bundle.file(name).stat().st_size, "sha256": sha256} for name, sha256 in manifest.files.items()},
    }


def _kept(variant: "Variant") -> dict[str, Any]:
    gate = variant.gate
    return {"passed": gate.passed, "rank_correlation": gate.spearman, "failures": gate.failures, **variant.fingerprint}


def _plain(verdict: "Verdict") -> dict[str, Any]:
    """A verdict as plain values."""
    return {**asdict(verdict), "gate": verdict.gate and {"passed": verdict.gate.passed, **verdict.gate.model_dump()}}


def _value_table(title: str, values: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table


def _verdict_table(verdicts: "list[Verdict]") -> "Table":
    from rich.table import Table

    columns = "engine", "precision", "status", "score error", "heat map error", "state error", "rank correlation", "detail"
    table = Table(*columns, caption="the largest errors of float32, the median ones of other precisions")
    for verdict in verdicts:
        table.add_row(verdict.engine, verdict.precision, verdict.status, *_errors(verdict), verdict.detail)
    return table


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
