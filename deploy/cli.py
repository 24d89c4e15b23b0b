"""``oddsight-deploy``: look at a bundle, and try its engines on this machine."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deploy.console import run

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.bundle import Bundle
    from deploy.parity import Parity

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at a bundle, and try its engines on this machine.",
)

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that oddsight-train made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of trying one engine."""

    engine: str
    status: Literal["ok", "failed", "not installed"]
    detail: str
    parity: "Parity | None" = None


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
    as_json: AsJson = False,
) -> None:
    """Score the bundle's golden clips with each engine and compare with the reference. Exit code 1 if one fails.

    An engine that is not installed is said to be so; that counts as a failure if it was asked for, or if none is left.
    """
    from deploy.bundle import read_bundle
    from deploy.engine import ENGINES

    verified = read_bundle(bundle)
    verdicts = [_try_engine(verified, name) for name in engine or ENGINES]
    passed = _all_good(verdicts, asked_for=bool(engine))
    if as_json:
        typer.echo(json.dumps({"passed": passed, "engines": [asdict(verdict) for verdict in verdicts]}, indent=2))
    else:
        _print_tables([_verdict_table(verdicts)])
    raise typer.Exit(0 if passed else 1)


def _content(bundle: "Bundle") -> dict[str, dict[str, Any]]:
    manifest = bundle.manifest
    return {
        "model": {"model_id": manifest.model_id, "kind": manifest.model.kind, "config": manifest.model.config},
        "spec": manifest.spec.model_dump(),
        "calibration": {"calibration_id": bundle.calibration.calibration_id, **bundle.calibration.model_dump()},
        "metrics": manifest.metrics,
        "versions": manifest.versions,
        "files": {name: {"bytes": bundle.file(name).stat().st_size, "sha256": sha256} for name, sha256 in manifest.files.items()},
    }


def _try_engine(bundle: "Bundle", name: str) -> Verdict:
    from deploy.bundle import read_golden
    from deploy.engine import load_engine
    from deploy.errors import BundleIncompatible, EngineError, EngineUnavailable
    from deploy.parity import check

    try:
        engine = load_engine(bundle, name)
        parity = check(engine, read_golden(bundle))
    except EngineUnavailable as error:
        return Verdict(name, "not installed", str(error))
    except (EngineError, BundleIncompatible) as error:
        return Verdict(name, "failed", str(error))
    detail = ", ".join(f"{key} {value}" for key, value in engine.describe().items() if key != "backend")
    engine.close()
    return Verdict(name, "ok", detail, parity)


def _all_good(verdicts: list[Verdict], *, asked_for: bool) -> bool:
    statuses = [verdict.status for verdict in verdicts]
    return "ok" in statuses and "failed" not in statuses and not (asked_for and "not installed" in statuses)


def _value_table(title: str, values: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table


def _verdict_table(verdicts: list[Verdict]) -> "Table":
    from rich.table import Table

    table = Table("engine", "status", "score error", "heat map error", "state error", "detail", caption="the largest errors")
    for verdict in verdicts:
        table.add_row(verdict.engine, verdict.status, *_errors(verdict.parity), verdict.detail)
    return table


def _errors(parity: "Parity | None") -> list[str]:
    if parity is None:
        return ["", "", ""]
    errors = parity.max_score_error, parity.max_heatmap_error, parity.max_state_error
    return ["" if error is None else f"{error:.1e}" for error in errors]


def _print_tables(tables: "list[Table]") -> None:
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)  # a value may hold [brackets]
    for table in tables:
        console.print(table)
