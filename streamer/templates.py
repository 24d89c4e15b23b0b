"""Texts with placeholders, ``$camera_id`` or ``${camera_id}``, for what a notification tells."""

import json
from collections.abc import Callable, Mapping
from string import Template
from typing import Any, Final

from streamer.types import Event

PLACEHOLDERS: Final = frozenset(
    {field.alias or name for name, field in Event.model_fields.items()}
    | {"problem", "key", "type", "message", "more", "started_at", "dashboard_url"}
)
"""The fields of an event, the ``problem`` of a camera, and what is added to both."""


def check_template(template: str) -> str:
    """The template itself. Raises ValueError if it names an unknown field, or begins like JSON and is none."""
    if not Template(template).is_valid():
        raise ValueError("a placeholder must be $field or ${field}, and $$ stands for a dollar sign")
    unknown = sorted(set(Template(template).get_identifiers()) - PLACEHOLDERS)
    if unknown:
        raise ValueError(f"${unknown[0]} is no field; there are {', '.join(sorted(PLACEHOLDERS))}")
    if is_json(template):
        try:
            json.loads(template)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a template that begins with {{ or [ must be JSON, placeholders in quotes; {error}") from error
    return template


def is_json(template: str) -> bool:
    """Whether a template is meant to be JSON."""
    return template.lstrip().startswith(("{", "["))


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with these fields; one that does not apply is empty. No field can break out of the text of a JSON template."""
    values = _Fields(fields)
    if not is_json(template):
        return Template(template).substitute(values)
    return json.dumps(_each_text(json.loads(template), lambda text: Template(text).substitute(values)), ensure_ascii=False)


class _Fields(dict[str, str]):
    """Fields of which those that are missing are empty."""

    def __missing__(self, key: str) -> str:
        return ""


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON with each text in it changed, except for names."""
    if isinstance(value, dict):
        return {name: _each_text(each, change) for name, each in value.items()}
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
