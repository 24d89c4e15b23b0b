"""Settings of receivers: errors name path, rule and value, and show no secret."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ConfigError
from streamer.receivers import WebhookSettings, check_receivers
from streamer.settings_file import load_settings, parse_settings, settings_toml

WEBHOOK = {"kind": "webhook", "url": "https://host/"}
MQTT = {"kind": "mqtt", "host": "broker"}
EMAIL = {"kind": "email", "host": "mail", "from": "a@example.org", "to": ["b@example.org"]}

WRONG = [
    (WEBHOOK, "cameras", ["gate", "ya[rd"], "cameras.1: a pattern of cameras has *, ? and [...], whose brackets must be closed"),
    (WEBHOOK, "kinds", ["begin"], "kinds.0: Input should be 'start', 'update' or 'end'"),
    (WEBHOOK, "channels", ["smell"], "channels.0: Input should be 'speed', 'appearance' or 'dwell'"),
    (WEBHOOK, "quiet_hours", "22-6", "quiet_hours: quiet hours must be HH:MM-HH:MM, such as 22:00-06:00"),
    (WEBHOOK, "quiet_hours", "24:00-06:00", "quiet_hours: quiet hours must be HH:MM-HH:MM"),
    (WEBHOOK, "quiet_hours", "06:00-06:00", "quiet_hours: quiet hours must not end when they begin"),
    (WEBHOOK, "cooldown_s", -1, "cooldown_s: Input should be greater than or equal to 0"),
    (WEBHOOK, "timeout_s", 0, "timeout_s: Input should be greater than 0"),
    (MQTT, "topic", "a/#", "topic: a topic must not hold + or #, and no placeholder but {camera_id}"),
    (MQTT, "topic", "a/{camera}", "topic: a topic must not hold + or #, and no placeholder but {camera_id}"),
    (MQTT, "port", 0, "port: Input should be greater than or equal to 1"),
    (EMAIL, "from", "nobody", "from: String should match pattern"),
    (EMAIL, "to", ["b@example.org", "a@b\nBcc: c@d"], "to.1: String should match pattern"),
    (EMAIL, "subject", "$camera", "subject: $camera is no field; there are bound, budget"),
    (EMAIL, "body", "$ 5", "body: a placeholder must be $field or ${field}, and $$ stands for a dollar sign"),
]
HIDDEN = [
    ({"url": "ftp://TOKEN"}, "url: a URL must be http://HOST:PORT/PATH or https://HOST:PORT/PATH"),
    ({"url": "https://user:TOKEN@host/"}, "url: a URL must not hold a user or a password: send them in headers"),
    ({"url": "https://host:99999/TOKEN"}, "url: a URL must be"),
    ({"url": "https://[TOKEN"}, "url: a URL must be"),
    ({"url": ["TOKEN"]}, "url: Input should be a valid string"),
    ({"headers": {"Authorization": "TOKEN\n"}}, "headers.Authorization: the value of a header must be printable ASCII"),
    ({"headers": {"TOKEN TOKEN": "x"}}, "String should match pattern"),
    ({"template": '{"token": "TOKEN'}, "template: a template that begins with { or [ must be JSON"),
    ({"secret": 7}, "secret: Input should be a valid string"),
]


def problem_of(receiver: dict[str, Any], name: str = "ops", **notify: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings({"notify": {"receivers": {name: receiver}, **notify}}, "settings.toml")
    return str(caught.value)


@pytest.mark.parametrize(("receiver", "key", "value", "rule"), WRONG)
def test_error_names_path_rule_and_value(receiver: dict[str, Any], key: str, value: Any, rule: str) -> None:
    problem = problem_of({**receiver, key: value})
    assert problem.startswith(f"settings.toml: notify.receivers.ops.{rule}")
    wrong = value[-1] if isinstance(value, list) else value
    assert problem.endswith(f", got {wrong!r}")


@pytest.mark.parametrize(("more", "rule"), HIDDEN)
def test_error_shows_no_secret(more: dict[str, Any], rule: str) -> None:
    problem = problem_of({**WEBHOOK, **more})
    assert rule in problem
    assert "got" not in problem


@pytest.mark.parametrize(
    ("receiver", "rule"),
    [
        ({"kind": "pigeon"}, "ops: Input tag 'pigeon' found using 'kind' does not match any of the expected tags"),
        ({"kind": "webhook"}, "ops: either url or url_file must be set"),
        ({**WEBHOOK, "url_file": "x"}, "ops: either url or url_file must be set"),
        ({**WEBHOOK, "kinds": []}, "ops: nothing would be told: kinds is empty, and health is false"),
        ({**WEBHOOK, "min_score": 1}, "ops.min_score: no such setting"),
        ({**MQTT, "state_topic": "x"}, "ops: state_topic needs start and end among kinds"),
        ({**MQTT, "state_topic": "x", "kinds": ["start", "end"], "cooldown_s": 1}, "ops: state_topic needs start and end"),
        ({**EMAIL, "to": []}, "ops.to: Tuple should have at least 1 item"),
    ],
)
def test_rules_of_receivers_as_a_whole(receiver: dict[str, Any], rule: str) -> None:
    assert problem_of(receiver).startswith(f"settings.toml: notify.receivers.{rule}")


def test_other_rules() -> None:
    assert "notify.timezone: no such time zone; it must be a name such as Europe/Berlin, got 'Mars'" in problem_of(
        WEBHOOK, timezone="Mars"
    )
    assert "should match pattern '^[a-z0-9-]{1,40}$', got 'Ops'" in problem_of(WEBHOOK, name="Ops")
    assert "notify.dashboard_url: String should match pattern" in problem_of(WEBHOOK, dashboard_url="dash")


def test_the_environment_wins_and_all_is_printed_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "oddsight.toml"
    path.write_text('[notify.receivers.ops-team]\nkind = "webhook"\nheaders = {X-Token = "SECRET"}\nsecret = "SECRET"\n')
    settings = load_settings(path, {"ODDSIGHT_NOTIFY_OPS_TEAM_URL": "https://host/SECRET"})
    receiver = settings.notify.receivers["ops-team"]
    assert isinstance(receiver, WebhookSettings)
    assert receiver.url is not None
    assert receiver.url.get_secret_value() == "https://host/SECRET"
    printed = settings_toml(settings)
    assert "SECRET" not in printed + repr(settings)
    assert tomllib.loads(printed)["notify"]["receivers"]["ops-team"]["headers"] == {"X-Token": "**********"}


def test_files_of_secrets_are_checked(tmp_path: Path) -> None:
    settings = parse_settings({"notify": {"receivers": {"ops": {**EMAIL, "password_file": tmp_path / "none"}}}}, "").notify
    with pytest.raises(ConfigError, match=r"notify\.receivers\.ops\.password_file: .*none: No such file or directory"):
        check_receivers(settings)
    settings = parse_settings({"notify": {"receivers": {"ops": {**EMAIL, "ca_file": tmp_path}}}}, "").notify
    with pytest.raises(ConfigError, match=r"notify\.receivers\.ops\.ca_file: .* is no file"):
        check_receivers(settings)
