"""``oddsight-stream``: run the service, feed it, watch it. The only place where this package prints or reads arguments."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from deploy.console import run

app = typer.Typer(
    help="Frames from Kafka become scores and events in Redis.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with the settings; the defaults without it."),
]


def main() -> None:
    """Entry point of ``oddsight-stream``."""
    run(app)


@app.command("run")
def run_command(
    config: ConfigOption = None,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Bundle to score with; wins over engine.bundle.")] = None,
) -> None:
    """Consume frames, score them, write scores and events to Redis, until SIGTERM or Ctrl-C."""
    from streamer.config import load_settings, with_bundle
    from streamer.logs import configure_logs
    from streamer.service import run_service

    configure_logs()
    run_service(with_bundle(load_settings(config), bundle), _stop_on_signals())


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Check the settings and print all that is in force, as TOML, secrets hidden."""
    from streamer.config import load_settings, settings_toml

    typer.echo(settings_toml(load_settings(config)))


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and the first Ctrl-C set; a second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def note(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return stop
