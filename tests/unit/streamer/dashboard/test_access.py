"""Who may do what: logging in, roles, tokens of changes, other sites' pages, and many attempts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from streamer.dashboard.api.stream import _messages
from streamer.dashboard.app import make_app
from streamer.dashboard.users import add_user
from tests.harness.dashboard import Dashboard, dashboard, event_of

PASSWORD = "correct horse battery"
EVENT_ID = f"{1:016x}"
MARK = f"/api/v1/events/{EVENT_ID}/marks"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.json"
    for name, role in (("vic", "viewer"), ("olga", "operator"), ("ada", "admin")):
        add_user(path, name, role, PASSWORD)  # type: ignore[arg-type]  # one of the roles
    return path


@pytest.fixture
def board(users: Path) -> Iterator[Dashboard]:
    with dashboard(users) as running:
        running.write(event_of(1))
        yield running


def test_without_a_session_nothing_but_the_page_and_the_login_answers(board: Dashboard) -> None:
    asked = list(operations(board))
    assert len(asked) > 10
    for method, path in asked:
        assert board.client.request(method, path, params={"camera_id": "gate"}).status_code == 401, (method, path)
    assert board.client.get("/").status_code == 200
    assert board.client.get("/static/app.js").status_code == 200


def test_every_change_needs_its_token(board: Dashboard) -> None:
    board.log_in("ada", PASSWORD)
    changes = [(method, path) for method, path in operations(board) if method != "get"]
    assert len(changes) == 7
    for method, path in changes:
        for headers in ({}, {"X-CSRF-Token": "guessed"}):
            answer = board.client.request(method, path, json={}, headers=headers)
            assert answer.status_code == 403, path
            assert "X-CSRF-Token" in answer.json()["error"]
    assert board.redis.marks == []


def operations(board: Dashboard) -> Iterator[tuple[str, str]]:
    """Method and path of all that the API answers, but the login."""
    for path, methods in make_app(board.parts).openapi()["paths"].items():
        if path != "/api/v1/login":
            yield from ((method, path.replace("{event_id}", EVENT_ID).replace("{name}", "picture.jpg")) for method in methods)


def test_a_page_of_another_site_may_change_nothing(board: Dashboard) -> None:
    board.log_in("ada", PASSWORD)
    answer = board.client.post(MARK, json={"kind": "true"}, headers={**board.csrf(), "Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "another site" in answer.json()["error"]
    assert (
        board.client.post(MARK, json={"kind": "true"}, headers={**board.csrf(), "Origin": "http://localhost"}).status_code == 201
    )


@pytest.mark.parametrize(("name", "mark", "audit"), [("vic", 403, 403), ("olga", 201, 403), ("ada", 201, 200)])
def test_roles(board: Dashboard, name: str, mark: int, audit: int) -> None:
    board.log_in(name, PASSWORD)
    assert board.client.get("/api/v1/events").status_code == 200
    assert board.client.post(MARK, json={"kind": "acknowledge"}, headers=board.csrf()).status_code == mark
    assert board.client.get("/api/v1/audit").status_code == audit
    last = board.redis.trail[-1]
    assert (last.user, last.outcome) == (name, "refused" if audit == 403 else "ok")


def test_a_login_gives_another_session_than_the_one_before(board: Dashboard) -> None:
    board.redis.sessions["planted"] = "{}"
    login = {"name": "ada", "password": PASSWORD}
    answer = board.client.post("/api/v1/login", json=login, headers={"Cookie": "oddsight_session=planted"})
    assert answer.status_code == 200
    first = board.client.cookies["oddsight_session"]
    assert set(board.redis.sessions) == {first}
    assert first != "planted"
    board.log_in("ada", PASSWORD)
    assert set(board.redis.sessions) == {board.client.cookies["oddsight_session"]}
    assert first not in board.redis.sessions


def test_a_session_that_the_visitor_made_up_is_none(board: Dashboard) -> None:
    made_up = {"Cookie": "oddsight_session=made-up"}
    assert board.client.get("/api/v1/me", headers=made_up).status_code == 401
    board.redis.sessions["made-up"] = '{"user": "ada"}'
    assert board.client.get("/api/v1/me", headers=made_up).status_code == 401
    answer = board.client.post("/api/v1/login", json={"name": "ada", "password": "wrong"}, headers=made_up)
    assert (answer.status_code, answer.headers.get("set-cookie")) == (401, None)


@pytest.mark.parametrize(("address", "secure"), [("http://localhost", False), ("https://cctv.example", True)])
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(users: Path, address: str, secure: bool) -> None:
    with dashboard(users, address=address) as running:
        answer = running.client.post("/api/v1/login", json={"name": "ada", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ("Secure" in cookie) is secure


def test_logging_out_ends_the_session(board: Dashboard) -> None:
    board.log_in("ada", PASSWORD)
    assert board.client.post("/api/v1/logout", headers=board.csrf()).status_code == 204
    assert board.redis.sessions == {}
    assert board.client.get("/api/v1/me").status_code == 401


def test_a_user_with_another_password_must_log_in_again(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    add_user(path, "ada", "admin", PASSWORD)
    with dashboard(path) as running:
        running.log_in("ada", PASSWORD)
        assert running.client.get("/api/v1/me").status_code == 200
        add_user(path, "ada", "admin", PASSWORD + "2")
        assert running.client.get("/api/v1/me").status_code == 401


def test_many_attempts_are_refused_even_with_the_right_password(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.dashboard.access.is_password_of", lambda _user, password: password == PASSWORD)
    for _ in range(5):
        assert try_login(board.client, "ada", "wrong").status_code == 401
    answer = try_login(board.client, "ada", PASSWORD)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert try_login(board.client, "olga", PASSWORD).status_code == 200
    assert [entry.outcome for entry in board.redis.trail] == ["refused"] * 6 + ["ok"]


def test_a_login_that_succeeds_does_not_count(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.dashboard.access.is_password_of", lambda _user, password: password == PASSWORD)
    assert {try_login(board.client, "ada", PASSWORD).status_code for _ in range(40)} == {200}


def try_login(client: TestClient, name: str, password: str):  # type: ignore[no-untyped-def]  # a response of httpx
    return client.post("/api/v1/login", json={"name": name, "password": password})


def test_without_users_this_machine_alone_is_answered() -> None:
    with dashboard() as running:
        assert running.client.get("/api/v1/me").json()["user"] == "local"
        assert running.client.get("/api/v1/me", headers={"Host": "127.0.0.1:9109"}).status_code == 200
        assert running.client.get("/api/v1/me", headers={"Host": "[::1]:9109"}).status_code == 200
        for headers in ({"Host": "rebound.example"}, {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}):
            answer = running.client.get("/api/v1/me", headers=headers)
            assert answer.status_code == 403, headers
            assert "oddsight-stream users add" in answer.json()["next"]
        assert running.client.post("/api/v1/login", json={"name": "ada", "password": PASSWORD}).status_code == 409


def test_without_a_provider_nobody_signs_in_there(board: Dashboard) -> None:
    assert board.client.get("/api/v1/login").json() == {"passwords": True, "oidc": None}
    for path in ("/login/oidc", "/login/oidc/callback?state=a&code=b"):
        answer = board.client.get(path)
        assert (answer.status_code, "set dashboard.oidc" in answer.text) == (404, True)


def test_a_page_of_somebody_who_is_logged_out_gets_no_more(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.dashboard.api.stream._CHECK_SESSION_EVERY_S", 0.0)
    board.log_in("vic", PASSWORD)
    token = board.client.cookies["oddsight_session"]

    async def names() -> list[str]:
        found = []
        async for each in _messages(board.parts, token):
            found += [str(each.event)]
            board.redis.sessions.clear()
        return found

    assert asyncio.run(names()) == ["snapshot", "bye"]
    assert len(board.parts.live.hub) == 0
