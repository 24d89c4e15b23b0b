"""``oddsight-stream``: run the service, feed it, watch it. The only place where this package prints or reads arguments."""

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.console import run

app = typer.Typer(
    help="Frames from Kafka become scores and events in Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
    from streamer.config import load_settings
    from streamer.monitoring import configure_logs
    from streamer.service import run_service

    configure_logs()
    run_service(load_settings(config, bundle=bundle), _stop_on_signals())


@app.command("ingest")
def ingest_command(
    source: Annotated[str, typer.Argument(help="Video file, folder of pictures, or rtsp:// or http:// URL of a stream.")],
    camera_id: Annotated[str, typer.Option(metavar="NAME", help="The camera's name; becomes the message key.")],
    config: ConfigOption = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second to send; the source's own rate by default.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin recorded footage again at its end.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Send recorded footage as fast as Kafka takes it.")] = False,
    decoder: Annotated[Literal["cpu", "nvdec"], typer.Option(help="What decodes a video file; nvdec: an NVIDIA GPU.")] = "cpu",
) -> None:
    """Send one camera's frames to Kafka. A live stream is held on to until Ctrl-C; a file ends by itself."""
    from streamer.config import load_settings
    from streamer.ingest.run import CameraFeed, IngestPlan, run_ingest
    from streamer.monitoring import configure_logs

    configure_logs()
    plan = IngestPlan([CameraFeed(camera_id, source)], fps=fps, realtime=not fast, loop=loop, decoder=decoder)
    typer.echo(run_ingest(load_settings(config).kafka, plan, _stop_on_signals()))


@app.command("watch")
def watch_command(config: ConfigOption = None) -> None:
    """Show cameras, scores and events as they come, until Ctrl-C; one line an event where the output is no terminal."""
    from rich.console import Console

    from streamer.config import load_settings
    from streamer.watch import watch

    watch(load_settings(config).redis, Console(), _stop_on_signals())


@app.command("demo")
def demo_command() -> None:
    """Play real footage with hidden anomalies through an embedded Kafka and Redis and the real service. Takes half a minute."""
    from rich.console import Console

    from streamer.demo.run import run_demo
    from streamer.monitoring import configure_logs

    configure_logs(logging.WARNING)
    run_demo(Console())


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
