"""The commands of ``oddsight-stream cameras``."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with the settings; without it, the defaults.")
]
"""Of all commands."""

cameras_app = typer.Typer(invoke_without_command=True)
CameraArgument = Annotated[str, typer.Argument(metavar="CAMERA", help="The camera_id.")]


@cameras_app.callback()
def cameras_command(
    context: typer.Context,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """List the cameras with their profiles, thresholds and last frames, or change the profile of one.

    A running service takes up a change within about a second.
    """
    if context.invoked_subcommand is not None:
        if config is not None or as_json:
            raise typer.BadParameter(f"options come after the command: oddsight-stream cameras {context.invoked_subcommand} ...")
        return
    import json
    from dataclasses import asdict

    from streamer.cameras import list_cameras, print_cameras
    from streamer.settings_file import load_settings

    cameras = list_cameras(load_settings(config))
    if as_json:
        typer.echo(json.dumps({"cameras": [asdict(camera) for camera in cameras]}, indent=2))
    else:
        print_cameras(cameras)


@cameras_app.command("import")
def cameras_import(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Profiles that oddsight-train enrol wrote.")],
    config: ConfigOption = None,
) -> None:
    """Serve cameras with the profiles in files; with the bundle in the settings, refuse those of another model."""
    from streamer.cameras import import_profiles
    from streamer.settings_file import load_settings

    for line in import_profiles(load_settings(config), files):
        typer.echo(line)


@cameras_app.command("export")
def cameras_export(
    camera: CameraArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write; must not exist.")],
    config: ConfigOption = None,
) -> None:
    """Write a camera's current profile to a file."""
    from streamer.cameras import export_profile
    from streamer.settings_file import load_settings

    typer.echo(f"{camera}: {export_profile(load_settings(config), camera, out)} in {out}")


@cameras_app.command("show")
def cameras_show(camera: CameraArgument, config: ConfigOption = None) -> None:
    """List the versions of a camera's profile, the one imported last first."""
    from streamer.cameras import print_versions
    from streamer.settings_file import load_settings

    print_versions(load_settings(config), camera)


@cameras_app.command("rollback")
def cameras_rollback(
    camera: CameraArgument,
    to: Annotated[
        str | None, typer.Option(metavar="PROFILE_ID", help="Version to serve; by default the one before the current one.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Serve a camera with an earlier version of its profile; after remove, with the newest."""
    from streamer.cameras import open_store
    from streamer.settings_file import load_settings

    with open_store(load_settings(config)) as store:
        typer.echo(f"{camera}: {store.roll_back(camera, to)}")


@cameras_app.command("freeze")
def cameras_freeze(
    camera: CameraArgument,
    off: Annotated[bool, typer.Option("--off", help="Let the thresholds follow the camera again.")] = False,
    config: ConfigOption = None,
) -> None:
    """Keep a camera's profile as it is: its thresholds no longer follow its scores."""
    from streamer.cameras import open_store
    from streamer.settings_file import load_settings

    with open_store(load_settings(config)) as store:
        store.freeze(camera, frozen=not off)
    typer.echo(f"{camera}: {'follows its scores' if off else 'frozen'}")


@cameras_app.command("relearn")
def cameras_relearn(camera: CameraArgument, config: ConfigOption = None) -> None:
    """Take a camera's profile away, so that the service learns it anew; its versions are kept for rollback.

    A service that does not learn cameras serves it with the bundle's default profile from then on.
    """
    from streamer.cameras import open_store
    from streamer.settings_file import load_settings

    with open_store(load_settings(config)) as store:
        store.remove(camera)
    typer.echo(f"{camera}: default")
