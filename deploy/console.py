"""How all three commands end: exit codes and one line on stderr, never a traceback for a user's mistake."""

import sys

import typer

from deploy.errors import OddsightError


def run(app: typer.Typer) -> None:
    """Run a command line and exit the process; use it as the body of ``main()``.

    Exit code 0 on success, 2 for a wrong call, 130 on Ctrl-C (all three are Typer's own doing), and the error's
    ``exit_code`` for an :class:`OddsightError`, which is printed as ``error: MESSAGE`` on stderr.
    """
    try:
        app()
    except OddsightError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
