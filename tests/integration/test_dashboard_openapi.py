"""The API keeps what its OpenAPI document promises, whatever is sent: requests are made from the document, valid and not."""

import re
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator, ValidationError
from schemathesis.config import SchemathesisConfig

from streamer.dashboard.app import make_app
from tests.harness.browser import PASSWORD, Stack, now_ms, running_stack, write_evidence
from tests.harness.dashboard import wait_for

EVENT_ID, CAMERA_ID = "00000000000000aa", "gate"
EXAMPLES = 3
"""Random ones of each operation, besides those at every limit of its parameters."""
# Half of all requests are of a camera and of an event that exist, so that they get further than to "no such camera".
CONFIG: dict[str, Any] = {
    "dictionaries": {"cameras": {"values": [CAMERA_ID]}, "events": {"values": [EVENT_ID]}},
    "parameters": {
        "query.camera_id": {"dictionary": "cameras", "probability": 0.5},
        "body.camera_id": {"dictionary": "cameras", "probability": 0.5},
        "path.event_id": {"dictionary": "events", "probability": 0.5},
    },
    # Which of the others are printable, libraries do not agree on.
    "generation": {"codec": "ascii"},
    "phases": {"coverage": {"unexpected-methods": ["patch"]}},
    "operations": [
        # No schema says that corners enclose a part of the picture.
        {"include-method": "PUT", "checks": {"positive_data_acceptance": {"enabled": False}}},
        # Tuples of an answer are read as in an older draft of JSON Schema: another library looks at them below.
        {"include-path": "/api/v1/camera/scores", "checks": {"response_schema_conformance": {"enabled": False}}},
    ],
}
DOCUMENT = make_app(SimpleNamespace(access=SimpleNamespace(has_users=True))).openapi()  # type: ignore[arg-type]  # no others are needed
api = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG)).exclude(
    path_regex="/stream$|/logout$"  # one has no end, the other would end the session that all others need
)
ADMINS_ONLY = {"DELETE /api/v1/camera/mask", "GET /api/v1/audit"}
NEVER_DONE = {
    "POST /api/v1/login",  # no password is guessed
    "PUT /api/v1/camera/mask",  # no corners enclose enough
    "PUT /api/v1/camera/zone",
    "DELETE /api/v1/camera/mask",  # nothing was drawn
    "DELETE /api/v1/camera/zone",
    "GET /api/v1/camera/map",  # the camera has no profile
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("openapi")
    with running_stack(folder) as running:
        started_at_ms = now_ms() - 600_000
        write_evidence(folder / "evidence", EVENT_ID, started_at_ms)
        for kind in ("start", "end"):
            running.event(EVENT_ID, kind, CAMERA_ID, started_at_ms)
        running.score(CAMERA_ID, 0.5)
        running.picture(CAMERA_ID, now_ms())
        viewer = log_in(running, "vic")
        wait_for(lambda: viewer.get(f"{running.address}/api/v1/events/{EVENT_ID}").ok)
        yield running


def log_in(stack: Stack, name: str) -> requests.Session:
    session = requests.Session()
    answer = session.post(f"{stack.address}/api/v1/login", json={"name": name, "password": PASSWORD})
    session.headers["X-CSRF-Token"] = answer.json()["csrf"]
    return session


@pytest.fixture(scope="module")
def operator(stack: Stack) -> requests.Session:
    return log_in(stack, "olga")


@pytest.fixture(scope="module")
def admin(stack: Stack) -> requests.Session:
    return log_in(stack, "ada")


@pytest.fixture(scope="module")
def statuses() -> defaultdict[str, set[int]]:
    return defaultdict(set)


def answers_fit_the_document(label: str) -> Any:
    """The test of one operation. Those of one schema would all have one name, of which pytest-xdist runs a single test."""

    @api.include(name=label).parametrize()
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def test(
        case: schemathesis.Case,
        stack: Stack,
        operator: requests.Session,
        admin: requests.Session,
        statuses: defaultdict[str, set[int]],
    ) -> None:
        for session in (operator, admin) if label in ADMINS_ONLY else (operator,):
            answer = case.call(stack.address, session=session)
            statuses[label].add(answer.status_code)
            case.validate_response(answer)

    return test


for operation in api.get_all_operations():
    label = operation.ok().label
    globals()[f"test_{re.sub('[^a-z0-9]+', '_', label.lower())}"] = answers_fit_the_document(label)


def test_scores_fit_the_document(stack: Stack, operator: requests.Session) -> None:
    schema = {"$ref": "#/components/schemas/Scores", **DOCUMENT}
    scores = operator.get(f"{stack.address}/api/v1/camera/scores", params={"camera_id": CAMERA_ID}).json()
    assert len(scores["points"]) == 1
    Draft202012Validator(schema).validate(scores)
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate({"points": [[1, 0.5]]})


def test_requests_got_further_than_the_first_check(statuses: defaultdict[str, set[int]]) -> None:
    assert len(statuses) > 20
    done = {operation for operation, answers in statuses.items() if answers & {200, 201}}
    assert statuses.keys() - done <= NEVER_DONE
