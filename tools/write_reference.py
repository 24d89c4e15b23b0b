#!/usr/bin/env python3
"""Write the pages of ``docs/reference`` that follow from the code: settings, metrics, event fields and commands.

Writes the JSON Schema of events, ``streamer/event.schema.json``, as well.

python tools/write_reference.py

``make docs`` runs it. ``tests/unit/test_docs.py`` fails while a page differs from what this script would write.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer.main
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

import deploy.cli
import streamer.cli
import trainer.cli
from streamer.config import DashboardSettings, Settings
from streamer.monitoring import EvidenceMetrics, Metrics, NotifyMetrics, SideMetrics
from streamer.receivers import AnyReceiver, NotifySettings, Receiver, ReceiverName
from streamer.settings_file import CLIENT_SECRET_VARIABLE, ENVIRONMENT, RECEIVER_VARIABLES
from streamer.sign_in import OidcSettings
from streamer.types import Event

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
SCHEMA = ROOT / "streamer" / "event.schema.json"
WIDTH = 120
NUMBER_PATTERNS = {"integer": r"^-?\d+$", "number": r"^-?\d+(\.\d+)?([eE][-+]?\d+)?$"}
LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def settings_page() -> str:
    """Return every setting of ``oddsight.toml``, a section of the file each."""
    intro = (
        "`oddsight-stream` reads one TOML file (`--config oddsight.toml`). A setting that is left out has its default. An "
        "unknown setting or a wrong value is an error that names the dotted path, the rule and the value. "
        "`oddsight-stream config check --config oddsight.toml` prints the settings in force, with secrets hidden."
    )
    parts = ["# Settings", intro]
    for title, section in _sections():
        rows = [
            (f"`{setting.alias or key}`", _values(setting), _default(setting), _line(setting.description))
            for key, setting in section.model_fields.items()
            if setting.annotation not in (dict[ReceiverName, Receiver], OidcSettings | None)  # sections of their own
            and (section is AnyReceiver or key not in AnyReceiver.model_fields)
        ]
        parts += [f"## {title}", _line(section.__doc__), _table(("setting", "values", "default", "what it sets"), rows)]
    variables = [(f"`{variable}`", f"`{'.'.join(path)}`") for variable, path in ENVIRONMENT.items()]
    names = ", ".join(f"`{key}`" for key in RECEIVER_VARIABLES)
    variables.append(("`ODDSIGHT_NOTIFY_{NAME}_{SETTING}`", f"{names} of `notify.receivers.NAME`; a `-` is written as `_`"))
    variables.append((f"`{CLIENT_SECRET_VARIABLE}`", "`dashboard.oidc.client_secret`"))
    parts += [
        "## Environment",
        "These variables win over the file. Keep passwords here and not in the file.",
        _table(("variable", "setting"), variables),
    ]
    return _page(parts, "config.py, receivers.py, sign_in.py and storage.py of streamer/")


def metrics_page() -> str:
    """Return every metric of the service's ``/metrics``, and of those of the processes beside it."""
    intro = (
        "`oddsight-stream run` serves these metrics for Prometheus at `http://HOST:PORT/metrics` (settings `http.host` and "
        "`http.port`, by default `127.0.0.1:9108`). Of a histogram Prometheus gets `_bucket`, `_sum` and `_count`. What to "
        "watch and when to raise an alarm: [operate.md](../operate.md#health-and-metrics)."
    )
    parts = ["# Metrics", intro, _metrics_table(Metrics())]
    for title, command, metrics in (("evidence", "evidence", EvidenceMetrics()), ("notifications", "notify", NotifyMetrics())):
        served = f"`oddsight-stream {command}` serves these, with `/livez` and `/readyz`, if `{command}.port` is set."
        parts += [f"## Of {title}", served, _metrics_table(metrics)]
    return _page(parts, "streamer/monitoring.py")


def _metrics_table(metrics: Metrics | SideMetrics) -> str:
    rows = []
    for collector in vars(metrics).values():
        if not hasattr(collector, "describe"):
            continue
        (family,) = collector.describe()
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        rows.append((f"`{family.name}{suffix}`", family.type, labels, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), sorted(rows))


def events_page() -> str:
    """Return the fields of an entry in the stream of events, from its JSON Schema."""
    schema = event_schema()
    rows = [
        (f"`{name}`", _event_form(field), "yes" if name in schema["required"] else "", _line(field.get("description")))
        for name, field in schema["properties"].items()
    ]
    intro = (
        "Each entry of the Redis Stream `{prefix}:events` is a flat map of strings. The JSON Schema is "
        "[event.schema.json](../../streamer/event.schema.json). How to read the stream: [subscribe.md](../subscribe.md)."
    )
    return _page(["# Event fields", intro, _table(("field", "form", "always there", "meaning"), rows)], "streamer/types.py")


def commands_page() -> str:
    """Return every command with its arguments and options, as ``--help`` shows them."""
    parts = ["# Commands"]
    for name, module in (("oddsight-train", trainer.cli), ("oddsight-deploy", deploy.cli), ("oddsight-stream", streamer.cli)):
        command = typer.main.get_command(module.app)
        text = get_docs_for_click(obj=command, ctx=typer.Context(command), name=name, indent=1)
        text = re.sub(r"\* `--help`: .*\n", "", text).replace("**Options**:\n\n\n", "")
        parts += [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    return _page(parts, "trainer/cli.py, deploy/cli.py and streamer/cli.py")


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema of an entry in the stream of events, whose fields are all strings."""
    schema = Event.model_json_schema(by_alias=True)
    schema["required"].insert(0, "schema")  # it has a default in the model, but is always sent
    for field in schema["properties"].values():
        choices = field.pop("anyOf", None)
        if choices:
            field.update(next(choice for choice in choices if choice["type"] != "null"))
            field.pop("default", None)
        if field["type"] in NUMBER_PATTERNS:
            field["pattern"] = NUMBER_PATTERNS[field["type"]]
        field["type"] = "string"
    return schema


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "events.md": events_page,
    "commands.md": commands_page,
}
"""File in ``docs/reference`` -> what writes it."""


def _page(parts: Iterable[str], source: str) -> str:
    note = f"<!-- Written by `make docs` from {source}. Do not edit. -->"
    return "\n\n".join([note, *(_wrapped(part) for part in parts if part)]) + "\n"


def _wrapped(part: str) -> str:
    """Return a paragraph or a list in lines of at most ``WIDTH`` characters; headings, tables and code stay as they are."""
    if part.startswith(("#", "|", "```")):
        return part
    lists = part.startswith("* ")
    lines = part.splitlines() if lists else [" ".join(part.split())]
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="  " * lists, break_on_hyphens=False, break_long_words=False)
        for line in lines
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(text: str | None) -> str:
    """Return a docstring as one line of Markdown."""
    return " ".join((text or "").split()).replace("``", "`")


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the title and the model of each section; of ``dict[str, Model]``, the model of its values."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type):
            yield f"`[{name}]`", field.annotation
        else:
            yield f'`[{name}."CAMERA_ID"]`', get_args(field.annotation)[1]
        if field.annotation is DashboardSettings:
            yield f"`[{name}.oidc]`", OidcSettings
        if field.annotation is NotifySettings:
            title = f"`[{name}.receivers.NAME]`"
            yield f"{title}, all kinds", AnyReceiver
            for model in get_args(get_args(Receiver)[0]):
                yield f"{title} of the kind {get_args(model.model_fields['kind'].annotation)[0]}", model


def _values(field: FieldInfo) -> str:
    """Return what a setting accepts: its choices, or its type and limits."""
    if get_origin(field.annotation) in {tuple, dict}:
        return "list of texts" if get_origin(field.annotation) is tuple else "table of texts"
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    annotation = kinds[0] if kinds and get_origin(field.annotation) is not Literal else field.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is Annotated:  # a type with a rule of its own
        annotation = get_args(annotation)[0]
    names = {str: "text", bool: "`true`, `false`", int: "integer", float: "number", Path: "path", SecretStr: "secret text"}
    limits = [
        f"{sign} {getattr(rule, name):,}".replace(",", " ")
        for rule in field.metadata
        for name, sign in LIMITS.items()
        if hasattr(rule, name)
    ]
    return ", ".join([names[annotation], *limits])


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "`{}`"
    return "" if field.default is None or field.is_required() else f"`{json.dumps(field.default)}`"


def _event_form(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    pattern = field.get("pattern", "")
    return {"": "text", r"^-?\d+$": "integer"}.get(pattern, "`x,y,w,h`" if "," in pattern else "number")


def main() -> None:
    """Write the schema and all pages."""
    SCHEMA.write_text(json.dumps(event_schema(), indent=2) + "\n", encoding="utf-8")
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
