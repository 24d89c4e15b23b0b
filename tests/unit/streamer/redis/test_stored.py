"""Progress as it lies in Redis: of this version, of others, and damaged."""

import json

import pytest

from deploy.decision import OpenEvent
from deploy.health import HealthState
from streamer.interfaces import CameraState, OwedLetter, OwedLetters, Progress, ProgressUnusable, Snapshot, Step
from streamer.minutes import ScoreMinute
from streamer.redis.stored import forgotten_fields, parse_cameras, parse_progress, progress_fields
from streamer.types import Partition

STATE = CameraState(
    clip_from=3,
    event=OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.5, announced_at_ms=None),
    health=HealthState(problem="dark", since_ms=7),
)
WITHOUT_NUMBER = {
    "next_offset": "5",
    "camera:gate": '{"clip_from":3,"event":{"event_id":"e","started_at_ms":1,"last_active_ms":2,"peak_score":0.5,'
    '"announced_at_ms":null},"health":{"problem":"dark","since_ms":7,"suspected":null,"suspected_ms":null}}',
    "learner:gate": '{"clip_from":1,"content":"AAAA"}',
    "learner:yard": "",
}
MEMORY = Snapshot(clip_from=2, content="BBBB", offset=3, model_id="m")
"""As it was written before formats had numbers."""
EXPECTED = Progress(5, {"gate": STATE}, {"gate": Snapshot(clip_from=1, content="AAAA")})


def test_reads_progress_without_a_number() -> None:
    assert parse_progress(WITHOUT_NUMBER, "key") == EXPECTED


def test_writes_what_versions_before_numbers_read() -> None:
    step = Step(Partition("frames", 0), None, 5, EXPECTED.cameras, learners={**EXPECTED.learners, "yard": None})

    written = progress_fields(step)

    assert written.keys() == WITHOUT_NUMBER.keys() - {"next_offset"} | {"schema"}
    for name in ("camera:gate", "learner:gate"):
        known = json.loads(WITHOUT_NUMBER[name])
        assert {field: value for field, value in json.loads(written[name]).items() if field in known} == known
    assert written["learner:yard"] == ""


def test_memories_are_stored_beside_the_cameras_and_forgotten_with_them() -> None:
    step = Step(Partition("frames", 0), None, 5, memories={"gate": MEMORY, "yard": None}, forgotten=["hall"])

    written = progress_fields(step)

    assert parse_progress({**written, "next_offset": "5"}, "key").memories == {"gate": MEMORY}
    assert (written["memory:yard"], "memory:hall" in forgotten_fields(step)) == ("", True)


def test_dwell_of_an_earlier_version_is_ignored() -> None:
    stored = {**WITHOUT_NUMBER, "camera:gate": WITHOUT_NUMBER["camera:gate"].replace("{", '{"dwell":"eJxj",', 1)}

    assert parse_progress(stored, "key") == EXPECTED


def test_dead_letters_that_wait_are_kept_by_reference() -> None:
    letters = OwedLetters(letters=(OwedLetter(offset=4, first_offset=2, reason="unreadable", detail="why"),))
    fields = progress_fields(Step(Partition("frames", 0), None, 5, letters=letters))

    assert parse_progress({**WITHOUT_NUMBER, **fields}, "key").letters == letters
    assert "letters" not in progress_fields(Step(Partition("frames", 0), None, 5))
    damaged = parse_progress({**WITHOUT_NUMBER, "letters": "{"}, "key")
    assert (damaged.letters, damaged.damaged) == (OwedLetters(), ("letters",))


def test_a_minute_is_stored_with_its_camera_and_may_be_missing_as_a_version_before_leaves_it() -> None:
    minute = ScoreMinute(minute_at_ms=60_000, frames=2, total=0.75, highest=0.5, highest_at_ms=60_100, threshold=0.1 + 0.2)
    step = Step(Partition("frames", 0), None, 5, {"gate": STATE.model_copy(update={"minute": minute})})
    written = progress_fields(step) | {"next_offset": "5"}

    earlier = {name: value for name, value in json.loads(written["camera:gate"]).items() if name != "minute"}
    assert parse_progress(written, "key").cameras["gate"].minute == minute
    assert parse_progress({**written, "camera:gate": json.dumps(earlier)}, "key").cameras == {"gate": STATE}


def test_ignores_fields_of_newer_versions() -> None:
    newer = {name: text.replace("{", '{"newer":1,') for name, text in WITHOUT_NUMBER.items()}

    assert parse_progress({**newer, "schema": "1", "newer": "?"}, "key") == EXPECTED


@pytest.mark.parametrize("text", ["not JSON", "\ufffd", "[]", '{"clip_from":"x"}', '{"event":{}}'])
def test_damage_costs_one_camera_its_state(text: str) -> None:
    stored = {**WITHOUT_NUMBER, "camera:yard": text, "learner:hall": "damaged", "memory:hall": text}

    progress = parse_progress(stored, "key")

    assert (progress.next_offset, progress.cameras, progress.learners) == (5, EXPECTED.cameras, EXPECTED.learners)
    assert set(progress.damaged) == {"camera:yard", "learner:hall", "memory:hall"}
    assert parse_cameras(stored) == EXPECTED.cameras


@pytest.mark.parametrize("offset", ["", "x", "-1", "1.5", "\u0663", "\ufffd", "9" * 19, "9" * 400])
def test_damaged_offset_names_key_and_remedy(offset: str) -> None:
    with pytest.raises(ProgressUnusable, match=r"Redis, p:progress:0: its next_offset must be a number.*delete the key"):
        parse_progress({**WITHOUT_NUMBER, "next_offset": offset}, "p:progress:0")


def test_newer_format_names_key_and_remedy() -> None:
    with pytest.raises(ProgressUnusable, match=r"Redis, p:progress:0: format '2' is not known, only 1: run the version"):
        parse_progress({**WITHOUT_NUMBER, "schema": "2"}, "p:progress:0")
