"""Settings: errors name path, rule and value; secrets are never shown."""

import json
import sys
import tomllib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import structlog

from deploy.errors import ConfigError
from streamer.cli import main
from streamer.config import Settings, camera_thresholds, decision_rule
from streamer.settings_file import load_settings, parse_settings, settings_toml
from tests.harness.calibration import calibration_of

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_USERNAME", "KAFKA_PASSWORD", "REDIS_URL", "REDIS_PASSWORD"):
        monkeypatch.delenv(f"ODDSIGHT_{name}", raising=False)


def problem_of(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings(content, "settings.toml")
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_file() -> None:
    assert load_settings(None, {}) == Settings()


@pytest.mark.parametrize(
    ("start", "mode", "sheds"),
    [("latest", None, True), ("earliest", None, False), ("latest", "archive", False), ("earliest", "live", True)],
)
def test_recorded_footage_is_looked_at_as_a_whole(start: str, mode: str | None, sheds: bool) -> None:
    assert parse_settings({"kafka": {"start": start}, "limits": {"mode": mode}}, "").sheds_frames is sheds


WRONG = [
    ("kafka.topic", "a b", "match pattern"),
    ("kafka.start", "newest", "'earliest' or 'latest'"),
    ("kafka.session_timeout_ms", 5, "greater than or equal to 1000"),
    ("redis.prefix", "a b", "match pattern"),
    ("redis.max_events", 0, "greater than or equal to 1"),
    ("engine.backend", "magic", "'openvino'"),
    ("engine.precision", "f64", "'f32', 'bf16', 'f16' or 'int8'"),
    ("engine.performance_hint", "both", "'throughput' or 'latency'"),
    ("decode.backend", "gpu", "'cpu' or 'nvjpeg'"),
    ("batch.max_clips", 0, "greater than or equal to 1"),
    ("batch.max_wait_ms", "soon", "valid number"),
    ("decision.max_gap_s", 0, "greater than 0"),
    ("decision.max_gap_s", float("inf"), "finite"),
    ("registry.max_cameras", 0, "greater than or equal to 1"),
    ("registry.idle_after_s", 59.0, "greater than or equal to 60"),
    ("http.port", 70_000, "less than or equal to 65535"),
    ("cameras.gate.enter", "high", "valid number"),
    ("cameras.gate.exit", float("nan"), "finite"),
]


@pytest.mark.parametrize(("path", "value", "rule"), WRONG)
def test_error_names_path_rule_and_value(path: str, value: object, rule: str) -> None:
    content: object = value
    for part in reversed(path.split(".")):
        content = {part: content}
    assert isinstance(content, dict)

    problem = problem_of(content)

    assert problem.startswith(f"settings.toml: {path}: ")
    assert rule in problem
    assert problem.endswith(f", got {value!r}")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"kafak": {"topic": "frames"}}, "kafak"),
        ({"kafka": {"topics": "frames"}}, "kafka.topics"),
        ({"cameras": {"gate": {"entr": 1.0}}}, "cameras.gate.entr"),
    ],
)
def test_rejects_unknown_key(content: dict[str, Any], path: str) -> None:
    assert problem_of(content) == f"settings.toml: {path}: no such setting"


def test_allowed_cameras_must_be_camera_ids() -> None:
    problem = problem_of({"registry": {"allowed": ["gate", " yard"]}})
    assert problem == (
        "settings.toml: registry.allowed.1: "
        "a camera_id must be 1 to 128 printable characters without leading or trailing spaces, got ' yard'"
    )


def test_reports_all_errors_at_once() -> None:
    problem = problem_of({"kafka": {"topic": "a b"}, "http": {"port": -1}})

    assert [line.strip().removeprefix("settings.toml: ").partition(":")[0] for line in problem.splitlines()] == [
        "kafka.topic",
        "http.port",
    ]


def test_dead_letters_need_a_topic_of_their_own() -> None:
    assert "topic and deadletter_topic must differ, got 'frames' for both" in problem_of(
        {"kafka": {"deadletter_topic": "frames"}}
    )


@pytest.mark.parametrize("missing", ["username", "password"])
def test_sasl_needs_both_credentials(missing: str) -> None:
    kafka = {"security_protocol": "SASL_SSL", "username": "ada", "password": SECRET}

    problem = problem_of({"kafka": {name: value for name, value in kafka.items() if name != missing}})

    assert problem == "settings.toml: kafka: username and password must be set when security_protocol is SASL_SSL"
    assert parse_settings({"kafka": kafka}, "settings.toml").kafka.username == "ada"


def test_environment_overrides_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\nbootstrap_servers = "file:1"\ntopic = "yard"\n[redis]\nurl = "redis://file:1"\n')
    environment = {
        "ODDSIGHT_KAFKA_BOOTSTRAP_SERVERS": "env:1",
        "ODDSIGHT_KAFKA_USERNAME": "ada",
        "ODDSIGHT_KAFKA_PASSWORD": SECRET,
        "ODDSIGHT_KAFKA_GROUP_INSTANCE_ID": "streamer-0",
        "ODDSIGHT_REDIS_URL": "rediss://env:1",
        "ODDSIGHT_REDIS_PASSWORD": "other",
    }

    settings = load_settings(path, environment)

    assert (settings.kafka.bootstrap_servers, settings.kafka.topic, settings.kafka.username) == ("env:1", "yard", "ada")
    assert settings.kafka.password is not None
    assert settings.kafka.password.get_secret_value() == SECRET
    assert settings.kafka.group_instance_id == "streamer-0"
    assert settings.redis.url == "rediss://env:1"
    assert settings.redis.password is not None
    assert settings.redis.password.get_secret_value() == "other"


def test_environment_completes_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\nsecurity_protocol = "SASL_SSL"\n')

    settings = load_settings(path, {"ODDSIGHT_KAFKA_USERNAME": "ada", "ODDSIGHT_KAFKA_PASSWORD": SECRET})

    assert settings.kafka.username == "ada"


def test_environment_keeps_section_error(tmp_path: Path) -> None:
    path = written(tmp_path, "kafka = 5\n")

    with pytest.raises(ConfigError, match=r"settings\.toml: kafka: "):
        load_settings(path, {"ODDSIGHT_KAFKA_USERNAME": "ada"})


@pytest.mark.parametrize(
    "content",
    [
        {"redis": {"url": f"http://:{SECRET}@host"}},
        {"redis": {"url": [f"redis://:{SECRET}@host"]}},
        {"redis": {"password": {"value": SECRET}}},
        {"redis": {"passwd": SECRET}},
        {"redis": f"redis://:{SECRET}@host"},
        {"redis": [{"password": SECRET}]},
        {"kafka": {"password": [SECRET]}},
        {"kafka": {"bootstrap_servers": f"ada:{SECRET}@host:9092"}},
        {"kafka": {"password": SECRET, "security_protocol": "SASL_SSL"}},
    ],
    ids=json.dumps,
)
def test_error_hides_secrets(content: dict[str, Any]) -> None:
    problem = problem_of(content)

    assert problem.startswith("settings.toml: ")
    assert SECRET not in problem


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://**********@host:6379/0"),
        (f"redis://{SECRET}@host:6379/0", "redis://**********@host:6379/0"),
        (f"rediss://ada:{SECRET}@host", "rediss://**********@host"),
        (f"redis://ada:p@{SECRET}@host", "redis://**********@host"),
        (f"redis://ada:p/{SECRET}@host", "redis://**********@host"),
        (f"redis://ada:p?{SECRET}@host", "redis://**********"),
        (f"redis://a@b:{SECRET}@host", "redis://**********@host"),
        (f"redis://host:6379/0?password={SECRET}&db=1", "redis://host:6379/0?**********"),
        (f"redis://host:6379/0?password=p@{SECRET}", "redis://**********"),
        (f"redis://host:6379/0?PASSWORD={SECRET}", "redis://host:6379/0?**********"),
        (f"unix://ada@/run/redis.sock?db=1&password={SECRET}", "unix://**********"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_redis_url_without_password(url: str, shown: str) -> None:
    text = settings_toml(Settings.model_validate({"redis": {"url": url}}))

    assert tomllib.loads(text)["redis"]["url"] == shown
    assert SECRET not in text


def test_passwords_are_hidden() -> None:
    settings = Settings.model_validate({"redis": {"password": SECRET}, "kafka": {"username": "ada", "password": SECRET}})

    shown = tomllib.loads(settings_toml(settings))

    assert shown["redis"]["password"] == shown["kafka"]["password"] == "**********"
    assert SECRET not in f"{settings_toml(settings)} {settings!r} {settings}"


def test_settings_toml_round_trip() -> None:
    content = {
        "kafka": {"bootstrap_servers": "брокер-😀:9092", "start": "earliest"},
        "engine": {"bundle": 'C:\\models\\"new"'},
        "decision": {"merge_gap_s": 0.25},
        "registry": {"allowed": ["камера.1", 'Tor "3"']},
        "cameras": {'Tor "3" \\': {"enter": 2.5}, "камера.1": {"enter": 1.0, "exit": 0.5}},
    }
    settings = Settings.model_validate(content)

    assert parse_settings(tomllib.loads(settings_toml(settings)), "shown") == settings


def test_unset_setting_is_a_comment() -> None:
    shown = settings_toml(Settings()).splitlines()
    assert [f"# {name} is not set" in shown for name in ("bundle", "backend", "precision", "performance_hint")] == [True] * 4


def test_bundle_option_overrides_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[engine]\nbundle = "a"\nthreads = 3\n')

    assert load_settings(path, {}).engine.bundle == Path("a")
    engine = load_settings(path, {}, bundle=Path("b")).engine
    assert (engine.bundle, engine.threads) == (Path("b"), 3)


CALIBRATION = calibration_of(enter=0.5, exit_=0.4)


@pytest.mark.parametrize(
    ("own", "enter", "exit_", "promise"),
    [
        ({}, 0.5, 0.4, True),
        ({"enter": 0.8}, 0.8, 0.6, True),
        ({"enter": 0.1}, 0.1, 0.1, True),  # below the median
        ({"exit": 0.2}, 0.5, 0.2, False),  # nobody counted the events with this one
        ({"enter": 0.9, "exit": 0.8}, 0.9, 0.8, False),
    ],
)
def test_camera_thresholds_win(own: dict[str, float], enter: float, exit_: float, promise: bool) -> None:
    settings = Settings.model_validate({"cameras": {"gate": own}})

    limits = camera_thresholds(settings, "gate", CALIBRATION)

    assert (limits.enter, limits.exit) == pytest.approx((enter, exit_))
    assert isfinite(limits.bound) == promise
    assert camera_thresholds(settings, "yard", CALIBRATION).enter == pytest.approx(0.5)


def test_budget_sets_threshold() -> None:
    settings = Settings.model_validate({"decision": {"false_events_per_camera_day": 0.1}})
    assert camera_thresholds(settings, "gate", CALIBRATION).enter > 0.5


def test_rejects_exit_above_enter() -> None:
    settings = Settings.model_validate({"cameras": {"gate": {"exit": 0.6}}})

    with pytest.raises(ConfigError, match=r"cameras\.gate\.exit must be at most its enter threshold \(0\.5\), got 0\.6"):
        camera_thresholds(settings, "gate", CALIBRATION)


def test_rule_times_in_milliseconds() -> None:
    decision = {"min_duration_s": 0.25, "merge_gap_s": 1.5, "update_interval_s": 0.0001}
    settings = Settings.model_validate({"decision": decision})

    rule = decision_rule(settings, camera_thresholds(settings, "gate", CALIBRATION))

    assert (rule.min_duration_ms, rule.merge_gap_ms, rule.update_interval_ms) == (250, 1500, 1)


@pytest.mark.parametrize(
    "content", [b"[kafka\n", b"x = \xff", b"[http]\nport = 1\nport = 2\n", b"x = " + b"[" * 9999, b"x = " + b"9" * 9999]
)
def test_rejects_broken_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"settings\.toml: not valid TOML: "):
        load_settings(path, {})


@pytest.mark.parametrize(("name", "problem"), [("nowhere.toml", r"nowhere\.toml: No such file"), (".", "Is a directory")])
def test_rejects_unreadable_file(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_settings(tmp_path / name, {})


@pytest.fixture
def usual_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def exit_code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["oddsight-stream", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[http]\nport = 99999\n", "http.port: Input should be less than or equal to 65535, got 99999"),
        ("[kafak]\n", "kafak: no such setting"),
        ("[kafka\n", "not valid TOML"),
    ],
)
@pytest.mark.usefixtures("usual_logs")
def test_config_check_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    path = written(tmp_path, text)

    assert exit_code_of(monkeypatch, "config", "check", "--config", str(path)) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {path}: ")
    assert problem in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.usefixtures("usual_logs")
def test_config_check_hides_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ODDSIGHT_REDIS_PASSWORD", SECRET)
    monkeypatch.setenv("ODDSIGHT_REDIS_URL", f"redis://:{SECRET}@host")
    path = written(tmp_path, "[http]\nport = 0\n")

    assert exit_code_of(monkeypatch, "config", "check", "--config", str(path)) == 0

    printed = capsys.readouterr().out
    assert tomllib.loads(printed)["http"]["port"] == 0
    assert SECRET not in printed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[engine]\nbundle = "/nowhere"\n', "/nowhere: not a bundle"),
        ('[engine]\nbackend = "onnx"\nprecision = "bf16"\n', "engine.precision must be one of f32 with onnx"),
        ("[cameras.gate]\nenter = 1.0\nexit = 2.0\n", "cameras.gate.exit must be at most its enter threshold"),
        ('[redis]\nurl = "redis://ada:12ab/34@host"\n', "redis.url is not valid"),
        ('[kafka]\nbootstrap_servers = "host:port"\n', "kafka.bootstrap_servers: "),
        ('[kafka]\nsecurity_protocol = "SSL"\nca_file = "/nowhere"\n', "kafka.ca_file: /nowhere"),
    ],
)
@pytest.mark.usefixtures("usual_logs")
def test_config_check_refuses_what_run_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    path = written(tmp_path, text)
    assert exit_code_of(monkeypatch, "config", "check", "--config", str(path)) != 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert problem in printed.err
    assert "12ab" not in printed.err
