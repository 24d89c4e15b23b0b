"""The file of settings, in TOML, and environment variables for endpoints and secrets: read and printed."""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from deploy.errors import ConfigError
from streamer.config import Settings

ENVIRONMENT = {
    f"ODDSIGHT_{section}_{key}".upper(): (section, key)
    for section, keys in {
        "kafka": ("bootstrap_servers", "username", "password", "group_instance_id"),
        "redis": ("url", "password"),
    }.items()
    for key in keys
}
"""Environment variable -> setting; overrides the file."""

RECEIVER_VARIABLES = ("url", "secret", "username", "password")
"""Settings of a receiver that ``ODDSIGHT_NOTIFY_{NAME}_{SETTING}`` overrides; a ``-`` in its name is written as ``_``."""

CLIENT_SECRET_VARIABLE = "ODDSIGHT_DASHBOARD_OIDC_CLIENT_SECRET"  # noqa: S105  the name of a variable
"""Overrides ``dashboard.oidc.client_secret`` where there is a ``[dashboard.oidc]``."""

_HIDDEN = "**********"
_SECRETS = {"bootstrap_servers", "client_secret", "issuer", "password", "url", "secret", "headers", "template"}
"""Settings that may hold a secret, even if they are wrong."""


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ, *, bundle: Path | None = None) -> Settings:
    """Read the TOML file, if any. Variables of the environment override it, and so does ``bundle``.

    A ConfigError names the dotted path, the rule and the value of everything that is wrong.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        # ValueError: also text that is not UTF-8, and numbers without end; RecursionError: brackets nested without end.
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    overrides = {setting: environment[variable] for variable, setting in ENVIRONMENT.items() if variable in environment}
    if bundle is not None:
        overrides["engine", "bundle"] = str(bundle)
    for (section, key), value in overrides.items():
        # If the section is not a table, leave it to the validation, which names it.
        if isinstance(table := content.setdefault(section, {}), dict):
            table[key] = value
    _override_receivers(content.get("notify"), environment)
    _override_client_secret(content.get("dashboard"), environment)
    return parse_settings(content, source=str(path or "settings"))


def _override_receivers(notify: Any, environment: Mapping[str, str]) -> None:
    receivers = notify.get("receivers") if isinstance(notify, dict) else None
    for name, receiver in receivers.items() if isinstance(receivers, dict) else ():
        for key in RECEIVER_VARIABLES:
            variable = f"ODDSIGHT_NOTIFY_{name}_{key}".upper().replace("-", "_")
            if variable in environment and isinstance(receiver, dict):
                receiver[key] = environment[variable]


def _override_client_secret(dashboard: Any, environment: Mapping[str, str]) -> None:
    oidc = dashboard.get("oidc") if isinstance(dashboard, dict) else None
    if isinstance(oidc, dict) and CLIENT_SECRET_VARIABLE in environment:
        oidc["client_secret"] = environment[CLIENT_SECRET_VARIABLE]


def parse_settings(content: Mapping[str, Any], source: str) -> Settings:
    """Validate settings given as nested mappings; ``source`` starts the message of the ConfigError."""
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "\n  ".join(map(_explain, error.errors(include_url=False)))) from error


def _explain(problem: ErrorDetails) -> str:
    """One line with dotted path, rule and value, but never a secret value."""
    path, value = problem["loc"], problem["input"]
    if path[:2] == ("notify", "receivers") and len(path) > 3:
        path = (*path[:3], *path[4:])  # without the kind, which stands in no path of the file
    where = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    rule = problem["msg"].removeprefix("Value error, ")
    # A whole section given as text or as a list may contain a secret.
    if not isinstance(value, str | int | float) or len(path) == 1 or not _SECRETS.isdisjoint(map(str, path)):
        return f"{where}: {rule}"
    return f"{where}: {rule}, got {value!r}"


def settings_toml(settings: Settings) -> str:
    """All settings in force as TOML: secrets as asterisks, settings without a value as comments."""
    content = settings.model_dump(mode="json", by_alias=True)
    content["redis"]["url"] = _public_url(settings.redis.url)
    cameras = {f"cameras.{_toml(camera_id)}": values for camera_id, values in content.pop("cameras").items()}
    receivers = {f"notify.receivers.{name}": values for name, values in content["notify"].pop("receivers").items()}
    oidc = content["dashboard"].pop("oidc")
    sign_in = {} if oidc is None else {"dashboard.oidc": oidc}
    sections = []
    for name, values in {**content, **sign_in, **receivers, **cameras}.items():
        lines = [f"# {key} is not set" if value is None else f"{key} = {_toml(value)}" for key, value in values.items()]
        sections.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(sections)


def _public_url(url: str) -> str:
    """A URL without user, password and query. If it is not clear where they end, without all but its scheme."""
    scheme, _, rest = url.partition("://")
    place, options, _ = rest.partition("?")
    _, user, host = place.rpartition("@")
    if "@" in rest and options:
        return f"{scheme}://{_HIDDEN}"
    return f"{scheme}://{_HIDDEN + user if user else ''}{host}{options + _HIDDEN if options else ''}"


def _toml(value: Any) -> str:
    # JSON strings, numbers and lists are valid TOML, except for JSON's escapes of characters beyond 16 bits.
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items() if each is not None) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
