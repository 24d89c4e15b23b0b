"""What the three command lines share: exit codes, errors in one line on stderr, progress bars and tables."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from deploy.errors import OddsightError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table


def run(app: typer.Typer) -> None:
    """Run a command line and exit the process; use it as the body of ``main()``.

    Typer itself exits with 0 on success, 2 for a wrong call and 130 on Ctrl-C. An :class:`OddsightError` is printed as
    ``error: MESSAGE`` on stderr, and the process exits with its ``exit_code``.
    """
    try:
        app()
    except OddsightError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr, so that stdout holds the result alone.

    Call what it yields with the number of finished steps, of all steps, and optionally another description.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total, text=description: bar.update(task, description=text, completed=done, total=total)


def make_bar(console: "Console", name: str, amount: "ProgressColumn", *more: "ProgressColumn", **options: Any) -> "Progress":
    """A progress bar with the time left; ``amount`` is the column that shows how much is done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn(name), BarColumn(), amount, TimeRemainingColumn(), *more, console=console, **options)


@contextmanager
def counting_bar(console: "Console", name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` parts of work; yields the function that advances it by a number of parts."""
    from rich.progress import MofNCompleteColumn

    with make_bar(console, name, MofNCompleteColumn()) as bar:
        task = bar.add_task(name, total=total or None)  # without a total the bar pulses
        yield partial(bar.advance, task)


def print_tables(tables: "Sequence[Table]") -> None:
    """Print tables on stdout, values as they are: they may hold [brackets]."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    for table in tables:
        console.print(table)
