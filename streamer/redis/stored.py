"""The format of a partition's progress in Redis: a hash whose fields and values are text.

    schema               the number of the format; missing in progress of before there were numbers, which is format 1
    next_offset          decimal
    step_id              of the step that was written last
    topic                TopicVersion as JSON: what the offset belongs to
    letters              OwedLetters as JSON: dead letters that Kafka had not taken yet
    camera:{camera_id}   CameraState as JSON
    learner:{camera_id}  Snapshot as JSON; empty if the camera is not learned any more
    memory:{camera_id}   Snapshot as JSON; empty if what the model remembered of the camera is of no use any more

Fields that are not known here are left alone, in the hash and in its JSON: a newer version wrote them, and going back to this one
must work. The number is raised only by a change that an older version would misread.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from streamer.interfaces import CameraState, OwedLetters, Progress, ProgressUnusable, Snapshot, Step, TopicVersion

SCHEMA: Final = 1

_CAMERA, _LEARNER, _MEMORY, _TOPIC, _LETTERS = "camera:", "learner:", "memory:", "topic", "letters"
CAMERA_FIELDS: Final = f"{_CAMERA}*"
_MAX_OFFSET: Final = 2**63 - 1
_REMEDY: Final = "to go on at the group's offset in Kafka, which may repeat about a second of results, delete the key"

Stored = TypeVar("Stored", bound=BaseModel)


def parse_progress(stored: Mapping[str, str], key: str) -> Progress:
    """The progress in a hash. What is damaged of a camera is left out and named.

    Raises ProgressUnusable if it is of a newer format, or its offset is damaged: nobody can tell which frames were counted.
    """
    schema = stored.get("schema", "1")
    if schema != str(SCHEMA):
        raise ProgressUnusable(
            f"Redis, {key}: format {schema!r} is not known, only {SCHEMA}: run the version that wrote it, or {_REMEDY}"
        )
    next_offset = _offset(stored.get("next_offset"), key)
    damaged: list[str] = []
    cameras = dict(_parsed(CameraState, _CAMERA, stored, damaged))
    learners, memories = (dict(_parsed(Snapshot, prefix, stored, damaged)) for prefix in (_LEARNER, _MEMORY))
    topic = _parsed_field(TopicVersion, _TOPIC, stored, damaged)
    letters = _parsed_field(OwedLetters, _LETTERS, stored, damaged) or OwedLetters()
    return Progress(next_offset, cameras, learners, memories, tuple(damaged), topic, letters)


def camera_field(camera_id: str) -> str:
    """The field that holds the state of a camera."""
    return _CAMERA + camera_id


def parse_cameras(stored: Mapping[str, str]) -> dict[str, CameraState]:
    """The states of the cameras in a hash, or in its fields like :data:`CAMERA_FIELDS`, without damaged ones."""
    return dict(_parsed(CameraState, _CAMERA, stored, []))


def progress_fields(step: Step) -> dict[str, str]:
    """What a step writes into the hash, apart from the next offset."""
    fields = {"schema": str(SCHEMA)}
    if step.topic is not None:
        fields[_TOPIC] = step.topic.model_dump_json()
    if step.letters is not None:
        fields[_LETTERS] = step.letters.model_dump_json()
    fields |= {_CAMERA + camera_id: state.model_dump_json() for camera_id, state in step.cameras.items()}
    # An empty text instead of a deletion: the script only sets.
    for prefix, snapshots in ((_LEARNER, step.learners), (_MEMORY, step.memories)):
        fields |= {prefix + camera_id: each.model_dump_json() if each else "" for camera_id, each in snapshots.items()}
    return fields


def forgotten_fields(step: Step) -> list[str]:
    """What a step deletes from the hash."""
    return [prefix + camera_id for camera_id in step.forgotten for prefix in (_CAMERA, _LEARNER, _MEMORY)]


def _offset(text: str | None, key: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _MAX_OFFSET):
        raise ProgressUnusable(
            f"Redis, {key}: its next_offset must be a number, got {text[:40]!r}: set it with HSET, or {_REMEDY}"
        )
    return int(text)


def _parsed(kind: type[Stored], prefix: str, stored: Mapping[str, str], damaged: list[str]) -> Iterator[tuple[str, Stored]]:
    for name, text in stored.items():
        if not (name.startswith(prefix) and text):
            continue
        try:
            yield name.removeprefix(prefix), kind.model_validate_json(text)
        except ValidationError:
            damaged.append(name)


def _parsed_field(kind: type[Stored], name: str, stored: Mapping[str, str], damaged: list[str]) -> Stored | None:
    """What one field holds; None if there is none, or it is damaged."""
    return dict(_parsed(kind, name, {name: stored[name]} if name in stored else {}, damaged)).get("")
