"""What subscribers are promised: the published schema, and event ids that depend on the input alone."""

import json
import math
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from streamer.event import Event, event_id, json_schema
from streamer.types import Partition

SCHEMA: dict[str, Any] = json.loads(files("streamer").joinpath("event.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)

ORIGINS = st.tuples(
    st.builds(Partition, st.text("abc.-_12", min_size=1, max_size=5), st.integers(0, 99)),
    st.integers(0, 2**63 - 1),
    st.text("abc 12é", min_size=1, max_size=5),
    st.integers(0, 2**47),
)


def event(kind: str = "start", **changes: object) -> Event:
    """An event entry as the service words it."""
    content = {
        "event_id": "0123456789abcdef",
        "kind": kind,
        "camera_id": "gate",
        "started_at_ms": 1_700_000_000_000,
        "captured_at_ms": 1_700_000_000_500,
        "ended_at_ms": 1_700_000_000_400 if kind == "end" else None,
        "score": 0.75,
        "peak_score": 0.875,
        "threshold": 0.5,
        "calibration_id": "c0ffee",
        "model_id": "brightness-0",
        "engine": "openvino",
        "region": None if kind == "end" else "0,8,16,16",
        "topic": "frames",
        "partition": 3,
        "offset": 42,
        "scored_at_ms": 1_700_000_000_600,
    }
    return Event.model_validate(content | changes)


def test_the_published_schema_is_the_one_in_the_code() -> None:
    assert json_schema() == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_the_published_schema_says_that_every_field_is_a_string() -> None:
    assert {definition["type"] for definition in SCHEMA["properties"].values()} == {"string"}


@pytest.mark.parametrize("kind", ["start", "update", "end"])
def test_what_is_sent_validates_against_the_published_schema(kind: str) -> None:
    fields = event(kind).fields()

    VALIDATOR.validate(fields)
    assert fields["schema"] == "1"


def test_a_field_that_does_not_apply_is_absent() -> None:
    start, end = event("start").fields(), event("end", score=None).fields()

    assert "ended_at_ms" not in start
    assert not {"score", "region"} & end.keys()
    assert end["ended_at_ms"] == "1700000000400"
    VALIDATOR.validate(end)


@pytest.mark.parametrize("kind", ["start", "update", "end"])
def test_a_subscriber_gets_the_same_event_back(kind: str) -> None:
    assert Event.model_validate(event(kind).fields()) == event(kind)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-6, 1e6))
def test_every_finite_score_is_sent_as_text_that_validates(score: float, peak_score: float) -> None:
    fields = event(score=score, peak_score=peak_score).fields()

    VALIDATOR.validate(fields)
    assert math.isclose(float(fields["peak_score"]), peak_score, rel_tol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "begin"},
        {"schema": "2"},
        {"score": "nan"},
        {"score": 0.75},
        {"peak_score": ""},
        {"offset": "4.2"},
        {"captured_at_ms": "yesterday"},
        {"region": "0,8,16"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_bad_field_fails_validation(changes: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid({**event().fields(), **changes})


@pytest.mark.parametrize("name", SCHEMA["required"])
def test_a_missing_field_fails_validation(name: str) -> None:
    fields = event().fields()
    del fields[name]

    assert not VALIDATOR.is_valid(fields)


@given(ORIGINS, ORIGINS)
def test_two_event_ids_are_equal_only_if_their_origins_are(
    one: tuple[Partition, int, str, int], other: tuple[Partition, int, str, int]
) -> None:
    assert (event_id(*one) == event_id(*other)) == (one == other)


@pytest.mark.parametrize(
    "other",
    [
        (Partition("frames2", 0), 5, "gate", 500),
        (Partition("frames", 1), 5, "gate", 500),
        (Partition("frames", 0), 6, "gate", 500),
        (Partition("frames", 0), 5, "gates", 500),
        (Partition("frames", 0), 5, "gate", 501),
    ],
)
def test_each_part_of_its_origin_changes_an_event_id(other: tuple[Partition, int, str, int]) -> None:
    assert event_id(*other) != event_id(Partition("frames", 0), 5, "gate", 500)


def test_an_event_id_stays_the_same_from_release_to_release() -> None:
    # A replay after an upgrade must not alert again: change this only together with the schema's version.
    assert event_id(Partition("frames", 0), 5, "gate", 500) == "1e760dfcb51e9112"
