"""The commands of ``oddsight-stream``. Libraries are imported in the commands, so that ``--help`` is instant."""

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.console import run

app = typer.Typer(
    help="Score camera frames from Kafka and write scores and events to Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Inspect the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with the settings; without it, the defaults.")
]


def main() -> None:
    """Entry point of ``oddsight-stream``."""
    run(app)


@app.command("run")
def run_command(
    config: ConfigOption = None,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Bundle to score with; overrides engine.bundle.")] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C: consume and score frames, write scores and events to Redis."""
    from streamer.config import load_settings
    from streamer.monitoring import configure_logs
    from streamer.service import run_service

    configure_logs()
    run_service(load_settings(config, bundle=bundle), _stop_on_signals())


@app.command("ingest")
def ingest_command(
    source: Annotated[str, typer.Argument(help="Video file, folder of images, or rtsp:// or http:// URL of a stream.")],
    camera_id: Annotated[str, typer.Option(metavar="NAME", help="The camera_id; becomes the message key.")],
    config: ConfigOption = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second to send; by default the source's own rate.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Repeat recorded footage endlessly.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Send recorded footage as fast as Kafka accepts it.")] = False,
    decoder: Annotated[Literal["cpu", "nvdec"], typer.Option(help="Decoder of video files; nvdec uses an NVIDIA GPU.")] = "cpu",
) -> None:
    """Send one camera's frames to Kafka. A live stream is read, and reconnected if lost, until Ctrl-C."""
    from streamer.config import load_settings
    from streamer.ingest.run import CameraFeed, IngestPlan, run_ingest
    from streamer.monitoring import configure_logs

    configure_logs()
    plan = IngestPlan([CameraFeed(camera_id, source)], fps=fps, realtime=not fast, loop=loop, decoder=decoder)
    typer.echo(run_ingest(load_settings(config).kafka, plan, _stop_on_signals()))


@app.command("watch")
def watch_command(config: ConfigOption = None) -> None:
    """Show cameras, scores and events live until Ctrl-C; one line an event if the output is not a terminal."""
    from rich.console import Console

    from streamer.config import load_settings
    from streamer.watch import watch

    watch(load_settings(config).redis, Console(), _stop_on_signals())


@app.command("demo")
def demo_command() -> None:
    """Score real footage with edited-in anomalies, with an embedded Kafka and Redis. Takes half a minute."""
    from rich.console import Console

    from streamer.demo.run import run_demo
    from streamer.monitoring import configure_logs

    configure_logs(logging.WARNING)
    run_demo(Console())


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Check the settings and print those in force as TOML, with secrets hidden."""
    from streamer.config import load_settings, settings_toml

    typer.echo(settings_toml(load_settings(config)))


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM or the first Ctrl-C sets; a second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
