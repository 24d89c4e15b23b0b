"""What the dashboard reads besides the service's streams: the file of users, evidence, sessions, and marks of events."""

import json
import tempfile
from pathlib import Path
from typing import Any, cast

from fastapi import Request

from deploy.errors import ConfigError, OddsightError
from streamer.config import RedisSettings
from streamer.dashboard.access import Access
from streamer.dashboard.evidence import EvidenceReader
from streamer.dashboard.index import EventIndex
from streamer.dashboard.problems import RequestRefused
from streamer.dashboard.quiet import quiet_of
from streamer.dashboard.sending import byte_range
from streamer.dashboard.users import UserList, add_user, read_users
from streamer.evidence.folder import FolderFiles
from streamer.evidence.store import event_folder
from streamer.redis.operators import OperatorStore
from tests.fuzz.target import PLAIN_JSON, Target
from tests.harness.dashboard import event_of, mark_of


class _Damaged(OddsightError):
    """Something stored was left out."""


def _users() -> Path:
    path = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-")) / "users.json"
    add_user(path, "ada", "admin", "correct horse battery")
    return path


def users_files() -> Target:
    """The file of users."""
    path = _users()
    valid = path.read_bytes()

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        for user in read_users(path).values():
            assert user.role
            assert user.credential

    return Target("users", parse, (ConfigError,), [valid], layout=PLAIN_JSON)


def evidence() -> Target:
    """``evidence.json`` of an event, and the place that it tells."""
    root, event = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-")), event_of(1, "end")
    (row,) = EventIndex().add(event)
    path = root / event_folder(event.event_id, event.started_at_ms) / "evidence.json"
    path.parent.mkdir(parents=True)
    described = {"captured_at_ms": 5, "width_px": 100, "height_px": 50, "region": [1, 2, 3, 4], "missing": {"clip.mp4": "why"}}
    reader = EvidenceReader(FolderFiles(root))
    clip = {"from_ms": 1, "to_ms": 2, "frames": 3}

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        found = reader.read(row, scores=True)
        assert found is not None
        found.model_dump_json()
        if quiet_of(row, found, "ada", 1) is None:
            raise _Damaged

    valid = json.dumps({"schema": 1, **described, "clip": clip, "scores": [[1, 0.5, 0.4], [2, None, None]]}).encode()
    return Target("evidence", parse, (_Damaged,), [valid], layout=PLAIN_JSON)


def ranges() -> Target:
    """The header Range of a request for a clip in a bucket."""

    def parse(content: bytes) -> None:
        part = byte_range(content.decode("latin-1"), 1000)
        if part is None:
            raise _Damaged  # the whole clip is sent
        assert 0 <= part[0] < part[1] <= 1000

    return Target("ranges", parse, (RequestRefused, _Damaged), [b"bytes=0-", b"bytes=10-19", b"bytes=-500"])


class _Store:
    """A client of Redis that knows one text, and one entry of every stream."""

    text = ""

    def get(self, _key: str) -> str:
        return self.text

    def xrange(self, *_: object, **__: object) -> list[tuple[str, dict[str, str]]]:
        tree: Any = json.loads(self.text)
        fields = tree if isinstance(tree, dict) else {"kind": tree}
        return [("1-0", {_clean(name): _clean(value) for name, value in fields.items()})]


def _clean(value: object) -> str:
    """As the client of Redis gives it, which has no half characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode()


def sessions() -> Target:
    """A session in Redis, by which somebody is recognised."""
    path, client = _users(), _Store()
    user = read_users(path)["ada"]
    access = Access(UserList(path), OperatorStore(cast("Any", client), RedisSettings()), 60)
    request = Request({"type": "http", "method": "GET", "headers": [(b"cookie", b"oddsight_session=x")], "path": "/"})

    def parse(content: bytes) -> None:
        client.text = content.decode(errors="replace")
        assert access.require(request, "admin").user == "ada"

    valid = json.dumps({"user": "ada", "credential": user.credential, "csrf": "x"}).encode()
    return Target("sessions", parse, (RequestRefused,), [valid], layout=PLAIN_JSON)


def marks() -> Target:
    """A mark of an event in its stream."""
    client = _Store()
    store = OperatorStore(cast("Any", client), RedisSettings())

    def parse(content: bytes) -> None:
        client.text = content.decode(errors="replace")
        try:
            _, found = store.marks_after("0-0")
        except (ValueError, RecursionError) as error:  # no JSON, which only this test uses
            raise _Damaged from error
        index = EventIndex()
        for mark in found:
            index.mark(mark)
        (row,) = index.add(event_of(1))
        row.model_dump_json()
        if not found:
            raise _Damaged

    kinds = ("acknowledge", "comment", "normal", "unmark")
    valid = [json.dumps(mark_of(1, kind, text="a dog").model_dump(mode="json", by_alias=True)).encode() for kind in kinds]
    return Target("marks", parse, (_Damaged,), valid, layout=PLAIN_JSON)
