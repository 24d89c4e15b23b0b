"""The published event schema, and event ids that depend on the input alone."""

import json
import math
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from streamer.types import Event, FrameInfo, Partition, event_id
from tools.write_reference import event_schema

SCHEMA: dict[str, Any] = json.loads(files("streamer").joinpath("event.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)

ORIGIN = FrameInfo(Partition("frames", 0), 5, "gate", 500, 64, 48)
ORIGINS = st.builds(
    FrameInfo,
    st.builds(Partition, st.text("abc.-_12", min_size=1, max_size=5), st.integers(0, 99)),
    st.integers(0, 2**63 - 1),
    st.text("abc 12é", min_size=1, max_size=5),
    st.integers(0, 2**47),
    st.just(64),
    st.just(48),
)


def event(kind: str = "start", **changes: object) -> Event:
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
        "budget": 1.0,
        "observed_s": 600.0,
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


def test_schema_file_is_up_to_date() -> None:
    assert event_schema() == SCHEMA, "run `make docs`"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", ["start", "update", "end"])
def test_sent_fields_match_schema(kind: str) -> None:
    fields = event(kind).fields()

    VALIDATOR.validate(fields)
    assert fields["schema"] == "1"


def test_omits_fields_that_do_not_apply() -> None:
    start, end = event("start").fields(), event("end", score=None).fields()

    assert "ended_at_ms" not in start
    assert not {"score", "region"} & end.keys()
    assert end["ended_at_ms"] == "1700000000400"
    VALIDATOR.validate(end)


@pytest.mark.parametrize("kind", ["start", "update", "end"])
def test_fields_round_trip(kind: str) -> None:
    assert Event.model_validate(event(kind).fields()) == event(kind)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-6, 1e6))
def test_finite_scores_match_schema(score: float, peak_score: float) -> None:
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
def test_schema_rejects_bad_field(changes: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid({**event().fields(), **changes})


@pytest.mark.parametrize("name", SCHEMA["required"])
def test_schema_rejects_missing_field(name: str) -> None:
    fields = event().fields()
    del fields[name]

    assert not VALIDATOR.is_valid(fields)


@given(ORIGINS, ORIGINS)
def test_event_ids_differ_with_origin(one: FrameInfo, other: FrameInfo) -> None:
    assert (event_id(one) == event_id(other)) == (one == other)


@pytest.mark.parametrize(
    "change",
    [
        {"partition": Partition("frames2", 0)},
        {"partition": Partition("frames", 1)},
        {"offset": 6},
        {"camera_id": "gates"},
        {"captured_at_ms": 501},
    ],
    ids=str,
)
def test_each_origin_field_changes_event_id(change: dict[str, Any]) -> None:
    assert event_id(replace(ORIGIN, **change)) != event_id(ORIGIN)


def test_event_id_is_stable_across_releases() -> None:
    # A replay after an upgrade must not alert again: change this only together with the schema's version.
    assert event_id(ORIGIN) == "1e760dfcb51e9112"
