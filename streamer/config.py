"""Settings: one TOML file, and the environment for endpoints and secrets. Unknown keys are errors."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator

from deploy.decision import DecisionRule
from deploy.errors import ConfigError

ENVIRONMENT = {
    "ODDSIGHT_KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "ODDSIGHT_KAFKA_USERNAME": ("kafka", "username"),
    "ODDSIGHT_KAFKA_PASSWORD": ("kafka", "password"),
    "ODDSIGHT_REDIS_URL": ("redis", "url"),
    "ODDSIGHT_REDIS_PASSWORD": ("redis", "password"),
}
"""Environment variable -> setting. The environment wins over the file."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
"""A Kafka topic or consumer group: letters, digits, dot, underscore and hyphen."""


class _Section(BaseModel):
    # TOML knows inf and nan; no setting does: a NaN threshold would never be reached, and nobody would notice.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class KafkaSettings(_Section):
    """Where frames come from."""

    bootstrap_servers: str = Field(default="127.0.0.1:9092", min_length=1)
    """host:port, several separated by commas."""
    topic: Name = "frames"
    deadletter_topic: Name = "frames.deadletter"
    consumer_group: Name = "oddsight"
    start: Literal["earliest", "latest"] = "latest"
    """Where a group with no progress begins: ``latest`` for live cameras, ``earliest`` for recorded footage."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    """PEM file of the authority that signed the broker's certificate; the system's own where not given."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000, le=300_000)
    """A killed consumer's cameras stay unwatched for this long."""

    @model_validator(mode="after")
    def _sasl_needs_credentials(self) -> "KafkaSettings":
        if self.security_protocol.startswith("SASL") and (self.username is None or self.password is None):
            raise ValueError(f"username and password must be set when security_protocol is {self.security_protocol}")
        return self


class RedisSettings(_Section):
    """Where scores and events go, and where progress lives."""

    url: str = Field(default="redis://127.0.0.1:6379/0", pattern=r"^(rediss?|unix)://")
    password: SecretStr | None = None
    prefix: str = Field(default="oddsight", pattern=r"^[A-Za-z0-9._{}-]{1,64}$")
    """First part of every key; a hash tag such as ``{oddsight}`` where Redis is a cluster."""
    max_events: int = Field(default=100_000, ge=1)
    """Entries kept in the stream of events, about."""
    max_scores: int = Field(default=10_000, ge=1)
    """Entries kept in each camera's stream of scores, about."""


class EngineSettings(_Section):
    """The model and what runs it."""

    bundle: Path | None = None
    """Folder of the bundle; ``--bundle`` wins over it."""
    backend: Literal["openvino", "onnx", "torch", "torch-cuda", "tensorrt", "tensorrt-rtx"] | None = None
    """What is not set here, or of the next two, is as the bundle's default has it (``oddsight-deploy optimize``) where that was
    chosen on this machine; else openvino, f32, throughput."""
    precision: Literal["f32", "bf16", "f16", "int8"] | None = None
    """Others than ``f32`` once ``oddsight-deploy verify`` or ``build`` has let them pass: ``bf16`` is openvino's, on processors
    that have it, ``f16`` the GPU engines', ``int8`` TensorRT's."""
    performance_hint: Literal["throughput", "latency"] | None = None
    """What threads and streams are set for."""
    on_unavailable: Literal["fail", "rebuild", "fallback"] = "fail"
    """Where the engine has no plan for this machine, has not passed the gate, or finds no GPU: start nothing, build it again
    (TensorRT), or take the first of torch-cuda and openvino that may serve. Logged and counted."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of one call; 0 leaves it to the backend."""
    gpu_cached_cameras: int = Field(default=256, ge=0, le=100_000)
    """How many cameras' last frames and states may stay on a GPU, so that only newest frames go up; memory for them is taken at
    start. Cameras beyond are served all the same, their clips and states going up whole. Nothing changes with a CPU."""


class DecodeSettings(_Section):
    """What decodes the cameras' pictures."""

    backend: Literal["cpu", "nvjpeg"] = "cpu"
    """``nvjpeg`` decodes JPEGs on an NVIDIA GPU; it is refused where the scores differ from those of ``cpu``."""


class BatchSettings(_Section):
    """Micro-batches: flushed when full or when the oldest clip has waited ``max_wait_ms``."""

    max_clips: int = Field(default=32, ge=1, le=1024)
    max_wait_ms: float = Field(default=50.0, ge=0, le=10_000)


class DecisionSettings(_Section):
    """When scores become an event. Times are capture times. Thresholds come from the bundle's calibration."""

    min_duration_s: float = Field(default=0.3, ge=0)
    """A score must stay at or above the exit threshold this long before an event starts."""
    merge_gap_s: float = Field(default=1.0, ge=0)
    """An event ends when no score reached the exit threshold for longer than this."""
    update_interval_s: float = Field(default=2.0, gt=0)
    """An open event is reported again this often."""
    max_gap_s: float = Field(default=5.0, gt=0)
    """Frames further apart than this do not belong to one clip: the camera starts afresh."""


class CameraSettings(_Section):
    """Thresholds of one camera instead of the bundle's."""

    enter: float | None = None
    exit: float | None = None


class HttpSettings(_Section):
    """Where /metrics, /livez and /readyz are served."""

    host: str = "127.0.0.1"
    port: int = Field(default=9108, ge=0, le=65535)
    """0 takes a free port, which is logged."""


class Settings(_Section):
    """All settings of ``oddsight-stream``."""

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    engine: EngineSettings = EngineSettings()
    decode: DecodeSettings = DecodeSettings()
    batch: BatchSettings = BatchSettings()
    decision: DecisionSettings = DecisionSettings()
    http: HttpSettings = HttpSettings()
    cameras: dict[str, CameraSettings] = {}


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the TOML file, if any, and put the environment over it.

    Raises:
        ConfigError: names the dotted path, the rule and the value of everything that is wrong.
    """
    content = _read_toml(path) if path is not None else {}
    for variable, (section, key) in ENVIRONMENT.items():
        # A section that is no table is left as it is: validation says so better.
        if variable in environment and isinstance(table := content.setdefault(section, {}), dict):
            table[key] = environment[variable]
    return parse_settings(content, source=str(path or "settings"))


def parse_settings(content: Mapping[str, Any], source: str) -> Settings:
    """Validate settings given as nested mappings; ``source`` begins the error message."""
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        lines = [_explain(dict(problem), content) for problem in error.errors(include_input=False, include_url=False)]
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from error


def with_bundle(settings: Settings, bundle: Path | None) -> Settings:
    """The same settings with another bundle, where one is given."""
    if bundle is None:
        return settings
    return settings.model_copy(update={"engine": settings.engine.model_copy(update={"bundle": bundle})})


def settings_toml(settings: Settings) -> str:
    """All settings in force as TOML; secrets are shown as stars, settings without a value as comments."""
    content = settings.model_dump(mode="json")
    content["redis"]["url"] = _without_secrets(settings.redis.url)
    cameras = {f"cameras.{_toml(camera_id)}": values for camera_id, values in content.pop("cameras").items()}
    return "\n\n".join(_section_toml(name, values) for name, values in {**content, **cameras}.items())


def _section_toml(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"# {key} is not set" if value is None else f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines])


def _without_secrets(url: str) -> str:
    """Hide the password of user:PASSWORD@host and redis-py's ?password=PASSWORD, also where somebody forgot to escape it."""
    url = re.sub(r"(password=)[^&]*", r"\1**********", url)
    return re.sub(r"(://[^:]*:).*(?=@)", r"\1**********", url)


def _toml(value: str | float) -> str:
    # JSON's strings and numbers are TOML's as well, but for JSON's way to escape what lies beyond 16 bits.
    return json.dumps(value, ensure_ascii=False)


def camera_rule(settings: Settings, camera_id: str, *, enter: float, exit_: float) -> DecisionRule:
    """The rule for one camera: its own thresholds where given, else the calibrated ones.

    Raises:
        ConfigError: the camera's exit threshold lies above its enter threshold.
    """
    camera = settings.cameras.get(camera_id, CameraSettings())
    enter = camera.enter if camera.enter is not None else enter
    exit_ = camera.exit if camera.exit is not None else min(exit_, enter)
    if exit_ > enter:
        raise ConfigError(f"cameras.{camera_id}.exit must be at most its enter threshold ({enter}), got {exit_}")
    decision = settings.decision
    return DecisionRule(
        enter=enter,
        exit=exit_,
        min_duration_ms=round(decision.min_duration_s * 1000),
        merge_gap_ms=round(decision.merge_gap_s * 1000),
        update_interval_ms=max(1, round(decision.update_interval_s * 1000)),
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


_SECRETS = frozenset({"password", "url"})


def _explain(problem: dict[str, Any], content: Mapping[str, Any]) -> str:
    """One line: dotted path, rule, value; never a secret's value."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    rule = problem["msg"].removeprefix("Value error, ")
    value = _value_at(content, problem["loc"])
    # A whole section given as text or as a list may hold a secret.
    if not isinstance(value, str | int | float) or len(problem["loc"]) == 1 or problem["loc"][-1] in _SECRETS:
        return f"{where}: {rule}"
    return f"{where}: {rule}, got {value!r}"


def _value_at(content: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        content = content.get(part) if isinstance(content, Mapping) else None
    return content
