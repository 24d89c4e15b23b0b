"""The file of users: what it takes, who may read it, and what it tells."""

import json
import socket
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.errors import ConfigError
from streamer.cli import app
from streamer.config import Settings
from streamer.dashboard.server import run_dashboard
from streamer.dashboard.users import UserList, add_user, check_name, is_password_of, read_users, remove_user

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.json"
    add_user(path, "ada", "admin", PASSWORD)
    add_user(path, "bob", "viewer", PASSWORD)
    return path


def test_passwords_are_hashed_and_the_file_is_private(made: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in made.read_text()
    assert {name: user.role for name, user in read_users(made).items()} == {"ada": "admin", "bob": "viewer"}


def test_only_the_right_password_of_a_known_user_counts(made: Path) -> None:
    users = read_users(made)
    assert is_password_of(users["ada"], PASSWORD)
    assert not is_password_of(users["ada"], PASSWORD + "x")
    assert not is_password_of(None, PASSWORD)


def test_a_file_that_others_may_read_is_refused(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text(made.read_text())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_users(path)


@pytest.mark.parametrize("text", ["", "{", '{"users": {"a": {"role": "king", "password": "x"}}}', '{"user": {}}'])
def test_what_is_no_file_of_users_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="oddsight-stream users"):
        read_users(path)


@pytest.mark.parametrize("name", ["", "local", "a b", "../x", "a" * 65, "<b>"])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a user's name must be"):
        check_name(name)


def test_short_passwords_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="10 to 200 characters, got 5"):
        add_user(tmp_path / "users.json", "ada", "admin", "short")


def test_a_changed_file_counts_at_once(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text(made.read_text())
    path.chmod(0o600)
    users = UserList(path)
    assert users.get("bob") is not None
    remove_user(path, "bob")
    assert users.get("bob") is None
    assert list(json.loads(path.read_text())["users"]) == ["ada"]
    with pytest.raises(ConfigError, match="no user 'bob'"):
        remove_user(path, "bob")


def test_the_commands_write_list_and_remove(tmp_path: Path) -> None:
    config = tmp_path / "oddsight.toml"
    config.write_text(f'[dashboard]\nusers = "{tmp_path}/users.json"\n')
    assert run("add", "ada", "--role", "admin", "--config", str(config)) == "ada: admin\n"
    assert is_password_of(read_users(tmp_path / "users.json")["ada"], PASSWORD)
    assert run("list", "--config", str(config)) == "ada: admin\n"
    assert run("remove", "ada", "--config", str(config)) == "ada: removed\n"
    assert read_users(tmp_path / "users.json") == {}


def run(*arguments: str) -> str:
    """What a command about users prints; the password is on its stdin."""
    return CliRunner().invoke(app, ["users", *arguments], input=f"{PASSWORD}\n").output


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"host": "::"}, "set dashboard.users"),
        ({"users": "/nowhere/users.json"}, "oddsight-stream users add"),
        ({"port": "taken"}, "set dashboard.port"),
    ],
)
def test_what_cannot_be_served_is_refused_at_start(settings: dict[str, str], problem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = {name: taken.getsockname()[1] if value == "taken" else value for name, value in settings.items()}
        with pytest.raises(ConfigError, match=problem):
            run_dashboard(Settings.model_validate({"dashboard": chosen}), threading.Event())
