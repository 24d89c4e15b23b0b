"""The commands of ``oddsight-stream``. Libraries are imported in the commands, so that ``--help`` is instant."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.console import run
from streamer.camera_commands import ConfigOption, cameras_app

app = typer.Typer(
    help="Score camera frames from Kafka and write scores and events to Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Inspect the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(cameras_app, name="cameras")
users_app = typer.Typer(help="Who may log in to the dashboard, in which role.", no_args_is_help=True)
app.add_typer(users_app, name="users")

ServedBundleOption = Annotated[
    Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle that the service serves; overrides engine.bundle.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]


def main() -> None:
    """Entry point of ``oddsight-stream``."""
    run(app)


@app.command("run")
def run_command(
    config: ConfigOption = None,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Bundle to score with; overrides engine.bundle.")] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C: consume and score frames, write scores and events to Redis."""
    from streamer.monitoring import configure_logs
    from streamer.service import run_service
    from streamer.settings_file import load_settings

    configure_logs()
    run_service(load_settings(config, bundle=bundle), _stop_on_signals())


@app.command("ingest")
def ingest_command(
    camera_id: Annotated[str, typer.Option(metavar="NAME", help="The camera_id; becomes the message key.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="Video file, folder of images, or rtsp:// or http:// URL of a stream; also read from ODDSIGHT_INGEST_SOURCE."
        ),
    ] = None,
    source_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that holds SOURCE: keeps passwords out of the list of processes.")
    ] = None,
    config: ConfigOption = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second to send; by default the source's own rate.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Repeat recorded footage endlessly.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Send recorded footage as fast as Kafka accepts it.")] = False,
    decoder: Annotated[Literal["cpu", "nvdec"], typer.Option(help="Decoder of video files; nvdec uses an NVIDIA GPU.")] = "cpu",
) -> None:
    """Send one camera's frames to Kafka. A live stream is read, and reconnected if lost, until Ctrl-C."""
    from streamer.ingest.run import CameraFeed, IngestPlan, run_ingest
    from streamer.ingest.streams import find_source
    from streamer.monitoring import configure_logs
    from streamer.settings_file import load_settings

    configure_logs()
    feed = CameraFeed(camera_id, find_source(source, source_file))
    plan = IngestPlan([feed], fps=fps, realtime=not fast, loop=loop, decoder=decoder)
    typer.echo(run_ingest(load_settings(config).kafka, plan, _stop_on_signals()))


@app.command("watch")
def watch_command(config: ConfigOption = None) -> None:
    """Show cameras, scores and events live until Ctrl-C, beginning with what is open; elsewhere than on a terminal, as lines."""
    from rich.console import Console

    from streamer.settings_file import load_settings
    from streamer.watch import watch

    watch(load_settings(config).redis, Console(), _stop_on_signals())


@app.command("replay")
def replay_command(
    camera: Annotated[str, typer.Option(metavar="ID", help="The camera_id.")],
    budget: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1e6, help="False events a day that are allowed; by default those of the settings."),
    ] = None,
    config: ConfigOption = None,
    bundle: ServedBundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Print the events that a camera's stored scores give when they are decided again, with another budget; changes nothing."""
    import json
    from dataclasses import asdict

    from streamer.settings_file import load_settings
    from streamer.what_if import lines, what_if

    found = what_if(load_settings(config, bundle=bundle), camera, budget)
    for line in [json.dumps(asdict(found), indent=2)] if as_json else lines(found):
        typer.echo(line)


@app.command("evidence")
def evidence_command(config: ConfigOption = None) -> None:
    """Store a picture, its heat map and a clip of every event in evidence.dir, and show what the cameras show now.

    Runs beside the service until SIGTERM or Ctrl-C, and takes up what it had not done.
    """
    from streamer.evidence.run import run_evidence
    from streamer.monitoring import configure_logs
    from streamer.settings_file import load_settings

    configure_logs()
    run_evidence(load_settings(config), _stop_on_signals())


@app.command("dashboard")
def dashboard_command(config: ConfigOption = None, bundle: ServedBundleOption = None) -> None:
    """Serve the web page for operators until SIGTERM or Ctrl-C: cameras, events with their evidence, marks.

    Needs the extra dashboard.
    """
    from streamer.monitoring import configure_logs
    from streamer.settings_file import load_settings

    configure_logs()
    with _library("the dashboard", "dashboard"):
        from streamer.dashboard.server import run_dashboard
    run_dashboard(load_settings(config, bundle=bundle), _stop_on_signals())


@app.command("notify")
def notify_command(
    config: ConfigOption = None,
    test: Annotated[
        str | None, typer.Option(metavar="NAME", help="Send one test message to this receiver, and say whether it arrived.")
    ] = None,
) -> None:
    """Tell the receivers in the settings of events and of problems with cameras: webhooks, MQTT, mail, Kafka.

    Runs beside the service until SIGTERM or Ctrl-C, and takes up what it had not done. Needs the extra notify.
    """
    from streamer.monitoring import configure_logs
    from streamer.settings_file import load_settings

    configure_logs()
    with _library("notify", "notify"):
        from streamer.notify.run import run_notify, send_trial
    settings = load_settings(config)
    if test is None:
        run_notify(settings, _stop_on_signals())
    else:
        typer.echo(f"{test}: the message arrived at {send_trial(settings, test)}")


@app.command("demo")
def demo_command(
    keep: Annotated[bool, typer.Option("--keep", help="Go on from the beginning afterwards, until Ctrl-C.")] = False,
) -> None:
    """Watch four rendered cameras, one of them unknown, with an embedded Kafka and Redis: 60 s of footage.

    Prints the address of the dashboard, which shows the same in a browser.
    """
    from rich.console import Console

    from streamer.demo.run import run_demo
    from streamer.monitoring import configure_logs

    configure_logs(logging.WARNING)
    run_demo(Console(), keep=keep)


@app.command("chaos")
def chaos_command(
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this fault; may be repeated. By default all, and combinations.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each fault comes.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides the order of the faults, their times and what is combined.")] = 0,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Run a service that doubles frames until that is found; fails if it is not.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="Instead: faults at random for so long, with memory and readiness looked at each second."),
    ] = None,
    cameras: Annotated[int, typer.Option(min=4, max=1000, help="How many cameras there are with --minutes.")] = 40,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Kill, stop and cut off the parts of a throw-away stack; fails if the service loses or doubles anything.

    Kafka is that in KAFKA_HOME, else the embedded one, with which fewer faults are possible. Needs the extra demo.
    """
    import json

    from deploy.console import print_tables, progress_bar
    from streamer.chaos.run import report_table, run_chaos
    from streamer.chaos.soak import run_soak
    from streamer.monitoring import configure_logs

    configure_logs(logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing must stay behind
    if minutes is not None:
        with progress_bar("starting") as on_progress:
            soak = run_soak(minutes, cameras, seed, on_progress)
        typer.echo(json.dumps(soak.values(), indent=2))
        raise typer.Exit(0 if soak.is_clean else 1)
    with progress_bar("starting") as on_progress:
        report = run_chaos(fault or [], repeats, seed, on_progress, self_check=self_check)
    if as_json:
        typer.echo(json.dumps(report.values(), indent=2))
    else:
        print_tables([report_table(report)])
        for line in report.lines():
            typer.echo(line)
    raise typer.Exit(130 if report.interrupted else 0 if report.is_as_expected else 1)


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Check all that run checks before it connects, bundle and engine too; print the settings in force, with secrets hidden."""
    from streamer.monitoring import configure_logs
    from streamer.receivers import check_receivers
    from streamer.service import check_service
    from streamer.settings_file import load_settings, settings_toml
    from streamer.sign_in import check_sign_in

    configure_logs(logging.WARNING)
    settings = load_settings(config)
    check_service(settings)
    check_receivers(settings.notify)
    if settings.dashboard.oidc is not None:
        check_sign_in(settings.dashboard.oidc)
    typer.echo(settings_toml(settings))


@users_app.command("add")
def users_add(
    name: NameArgument,
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        typer.Option(help="viewer looks, operator also marks events and changes cameras, admin also sees what was done."),
    ],
    config: ConfigOption = None,
) -> None:
    """Add a user of the dashboard, or replace one: asks for the password, or reads it from the first line of stdin."""
    with _library("the dashboard", "dashboard"):
        from streamer.dashboard.users import add_user, check_name

    path, name = _users_file(config), check_name(name)
    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if sys.stdin.isatty() else sys.stdin.readline()
    add_user(path, name, role, password.rstrip("\r\n"))
    typer.echo(f"{name}: {role}")


@users_app.command("list")
def users_list(config: ConfigOption = None) -> None:
    """List the users of the dashboard with their roles."""
    with _library("the dashboard", "dashboard"):
        from streamer.dashboard.users import read_users

    for name, user in sorted(read_users(_users_file(config)).items()):
        typer.echo(f"{name}: {user.role}")


@users_app.command("remove")
def users_remove(name: NameArgument, config: ConfigOption = None) -> None:
    """Remove a user of the dashboard; whoever is logged in under this name no longer is."""
    with _library("the dashboard", "dashboard"):
        from streamer.dashboard.users import remove_user

    remove_user(_users_file(config), name)
    typer.echo(f"{name}: removed")


def _users_file(config: Path | None) -> Path:
    from deploy.errors import ConfigError
    from streamer.settings_file import load_settings

    path = load_settings(config).dashboard.users
    if path is None:
        raise ConfigError('dashboard.users is not set; add to the settings: [dashboard] users = "users.json"')
    return path


@contextmanager
def _library(what: str, extra: str) -> Iterator[None]:
    """Turn the error of an import into one that names the extra to install."""
    from deploy.errors import ConfigError

    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{what} cannot be used: {error}; install it: pip install 'oddsight[{extra}]'") from error


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM or the first Ctrl-C sets; a second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


if __name__ == "__main__":
    main()
