"""The settings of ``oddsight-stream``, and the decision rules that follow from them."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, WithJsonSchema, model_validator

from deploy.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from deploy.calibration import DEFAULT_BUDGET, Calibration, Thresholds, thresholds, thresholds_at
from deploy.decision import DecisionRule, DecisionTimes
from deploy.errors import ConfigError
from streamer.areas import CameraAreas, Polygon, Zone
from streamer.receivers import NotifySettings
from streamer.section import Section
from streamer.sign_in import OidcSettings
from streamer.storage import EvidenceSettings
from streamer.types import CAMERA_ID_PATTERN, CAMERA_ID_RULE, MAX_CAMERA_ID_CHARS, is_camera_id

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
"""Name of a Kafka topic or consumer group."""


def _camera_id(text: str) -> str:
    if not is_camera_id(text):
        raise ValueError(f"a camera_id must be {CAMERA_ID_RULE}")
    return text


_CAMERA_ID_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_CAMERA_ID_CHARS, "pattern": CAMERA_ID_PATTERN}
CameraId = Annotated[str, AfterValidator(_camera_id), WithJsonSchema(_CAMERA_ID_SCHEMA)]


class KafkaSettings(Section):
    """The Kafka cluster, its topics, and how to connect."""

    bootstrap_servers: str = Field(default="127.0.0.1:9092", min_length=1, pattern=r"^[^@/]+$")
    """One or more brokers as ``host:port``, separated by commas."""
    topic: Name = "frames"
    """Topic of the frames: the key is the ``camera_id``, the value one JPEG or PNG image."""
    deadletter_topic: Name = "frames.deadletter"
    """Topic for messages that are not usable frames; the reason is in a header. Must not be ``topic``."""
    consumer_group: Name = "oddsight"
    """Consumers with the same group share the partitions of the topic. Progress in Redis is kept for each group."""
    start: Literal["earliest", "latest"] = "latest"
    """Where a group without progress begins: ``latest`` for live cameras, ``earliest`` for recorded footage. Partitions that the
    topic gets later are read from their beginning."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Encryption (``SSL``) and authentication (``SASL``) of the connection. ``SASL`` needs ``username`` and ``password``."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the password is proven to the broker; used only with ``SASL``."""
    username: str | None = None
    """User name for ``SASL``."""
    password: SecretStr | None = None
    """Password for ``SASL``; better set by the environment variable."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the brokers' certificates; without it, the system's authorities are trusted."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000, le=300_000)
    """After a consumer is killed, its cameras are unwatched for this long, until the group gives them to another one."""
    group_instance_id: Name | None = None
    """A name that this process keeps when it is restarted, and no other process has; better set by the environment variable. Its
    partitions then wait for it for ``session_timeout_ms``, and a restart within that time moves none. Needs Kafka 2.3."""

    @model_validator(mode="after")
    def _topics_differ(self) -> "KafkaSettings":
        if self.topic == self.deadletter_topic:
            raise ValueError(
                f"topic and deadletter_topic must differ, got {self.topic!r} for both: letters would be read as frames"
            )
        return self

    @model_validator(mode="after")
    def _sasl_needs_credentials(self) -> "KafkaSettings":
        if self.security_protocol.startswith("SASL") and (self.username is None or self.password is None):
            raise ValueError(f"username and password must be set when security_protocol is {self.security_protocol}")
        return self


class RedisSettings(Section):
    """The Redis that receives scores and events and stores the progress."""

    url: str = Field(default="redis://127.0.0.1:6379/0", pattern=r"^(rediss?(\+cluster|\+sentinel)?|unix)://")
    """``redis://HOST:PORT/DATABASE``, ``rediss://`` for TLS, or ``unix://PATH``. ``redis+cluster://HOST:PORT,HOST:PORT`` names
    some nodes of a Redis Cluster, ``redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE`` Sentinels and their name for it."""
    password: SecretStr | None = None
    """Password; wins over one in the URL. Better set by the environment variable."""
    prefix: str = Field(default="oddsight", pattern=r"^[A-Za-z0-9._{}-]{1,64}$")
    """First part of every key. With Redis Cluster it must hold a hash tag, such as ``{oddsight}``: one node has all keys."""
    max_events: int = Field(default=100_000, ge=1)
    """The streams of events and of health are trimmed to about this many entries each."""
    max_scores: int = Field(default=10_000, ge=1)
    """Each camera's stream of scores is trimmed to about this many entries."""
    scores_expire_days: float = Field(default=30.0, ge=0.01, le=3650)
    """Redis deletes a camera's streams of scores and of minutes this long after its last score."""

    minutes_keep_days: float = Field(default=7.0, ge=0.01, le=365)
    """Each camera's stream of minutes, from which timelines of days are drawn, is trimmed to about this many days with frames;
    a day takes about 0.15 MB."""

    @model_validator(mode="after")
    def _cluster_needs_hash_tag(self) -> "RedisSettings":
        if "+cluster://" in self.url and not re.match(r"[^{]*\{[^}]+\}", self.prefix):
            raise ValueError(f"with Redis Cluster the prefix must hold a hash tag, such as {{oddsight}}, got {self.prefix!r}")
        return self

    @property
    def events_key(self) -> str:
        """Key of the stream of events."""
        return f"{self.prefix}:events"

    @property
    def health_key(self) -> str:
        """Key of the stream of the cameras' health."""
        return f"{self.prefix}:health"

    @property
    def audit_key(self) -> str:
        """Key of the stream of what people did in the dashboard."""
        return f"{self.prefix}:audit"

    @property
    def heatmaps_key(self) -> str:
        """Key of the stream of the heat maps of events."""
        return f"{self.prefix}:heatmaps"

    @property
    def marks_key(self) -> str:
        """Key of the stream of operators' marks on events."""
        return f"{self.prefix}:marks"

    def status_key(self, instance: str) -> str:
        """Key of what a running service says of itself."""
        return f"{self.prefix}:service:{instance}"

    def picture_key(self, camera_id: str) -> str:
        """Key of what a camera shows now."""
        return f"{self.prefix}:picture:{camera_id}"

    def scores_key(self, camera_id: str) -> str:
        """Key of one camera's stream of scores."""
        return f"{self.prefix}:scores:{camera_id}"

    def minutes_key(self, camera_id: str) -> str:
        """Key of one camera's stream of minutes of scores."""
        return f"{self.prefix}:minutes:{camera_id}"

    @property
    def max_minutes(self) -> int:
        """To how many entries about a camera's stream of minutes is trimmed."""
        return round(self.minutes_keep_days * 1440)


class EngineSettings(Section):
    """The model, and the engine that runs it.

    If ``backend``, ``precision`` or ``performance_hint`` is not set, it is taken from the bundle's default (written by
    ``oddsight-deploy optimize``), provided that was chosen on this machine; else it is openvino, f32, throughput.
    """

    bundle: Path | None = None
    """Folder of the bundle; ``--bundle`` on the command line wins."""
    trusted_keys: Path | None = None
    """PEM file of public keys (Ed25519). If it is set, only a bundle that one of them has signed by ``oddsight-deploy sign`` is
    served; the one that comes with Oddsight is not signed."""
    backend: Literal["openvino", "onnx", "torch", "torch-cuda", "tensorrt", "tensorrt-rtx"] | None = None
    """The inference library."""
    precision: Literal["f32", "bf16", "f16", "int8"] | None = None
    """Numeric precision. All but ``f32`` must first have passed ``oddsight-deploy verify`` or ``build`` on this machine.
    ``bf16``: openvino, on CPUs that support it; ``f16``: GPU engines; ``int8``: TensorRT."""
    performance_hint: Literal["throughput", "latency"] | None = None
    """What threads and streams are tuned for; does not change any score."""
    on_unavailable: Literal["fail", "rebuild", "fallback"] = "fail"
    """What to do if the engine has no plan for this machine, has not passed validation, or finds no GPU: refuse to start,
    build it again (TensorRT), or use the first of torch-cuda and openvino that passed validation. Logged and counted."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of one call; 0 leaves the choice to the backend."""
    gpu_cached_cameras: int = Field(default=256, ge=0, le=100_000)
    """For how many cameras the last frames and the model's state stay on the GPU, so that only the newest frame is uploaded.
    Memory is allocated at start. Clips of further cameras are uploaded in full. No effect on a CPU."""


class DecodeSettings(Section):
    """How images are decoded."""

    backend: Literal["cpu", "nvjpeg"] = "cpu"
    """``nvjpeg`` decodes JPEGs on an NVIDIA GPU; refused at start if the scores then differ from those with ``cpu``."""


class BatchSettings(Section):
    """Micro-batches: the clips that wait when the engine is free, so that they grow with the load."""

    max_clips: int = Field(default=32, ge=1, le=1024)
    """Largest number of clips scored in one call."""
    max_wait_ms: float = Field(default=0.0, ge=0, le=10_000)
    """How long a clip may wait for others while the engine is free: fewer and larger micro-batches, and more latency."""


class DecisionSettings(Section):
    """When scores become an event. Times are capture times.

    Thresholds follow from the budget of false events, and from what each camera's profile, or the bundle, knows of normal scores.
    """

    false_events_per_camera_day: float = Field(default=DEFAULT_BUDGET, gt=0)
    """How many false events a day one camera may raise. A lower number makes thresholds higher; nothing is learned again. Every
    event, and ``oddsight-stream cameras``, says how many there will be at most."""
    min_duration_s: float = Field(default=0.3, ge=0, le=86_400)
    """An event starts only after the score has stayed at or above the exit threshold for this long."""
    merge_gap_s: float = Field(default=10.0, ge=0, le=86_400)
    """An event ends when the score has stayed below the exit threshold for longer than this: what flares up again before belongs
    to the same event."""
    update_interval_s: float = Field(default=2.0, gt=0, le=86_400)
    """How often an open event is reported again."""
    max_gap_s: float = Field(default=5.0, gt=0, le=86_400)
    """After a longer gap between two frames, the camera starts with a new clip and without history; not if it always sends so few
    frames that a gap is less than three of its usual intervals."""


class LearningSettings(Section):
    """How the profile of a camera that has none is learned from its own frames, while the default profile scores them."""

    enabled: bool | None = None
    """If not set: only with the network that comes with Oddsight, or one that was trained on several cameras."""
    min_minutes: float = Field(default=15.0, gt=0, le=10_080)
    """Least time that is learned from; capture time, without gaps."""
    events: Literal["withhold", "provisional"] = "withhold"
    """What becomes of events of a camera that is being learned: none are raised, or they are raised with the default profile's
    thresholds and marked ``provisional``."""
    memory_days: float = Field(default=7.0, ge=0, le=365)
    """How many days of a watched camera's scores its thresholds rest on: they follow them slowly, so that the budget of false
    events is kept ever better. 0 leaves all as they were learned, ``oddsight-stream cameras freeze`` those of one camera."""
    footage_dir: Path | None = None
    """Folder for the footage of cameras while they are learned. If it is set, the network is adapted to each camera from its
    footage once it is on watch, in a process of lowest priority; then the footage is deleted. Needs ``oddsight[train]``."""
    footage_mb: int = Field(default=200, ge=10, le=100_000)
    """Size of that footage for each camera; of more, the newest is kept."""


class HealthSettings(Section):
    """Reports on the cameras themselves: no picture, or one in which nothing can be seen."""

    enabled: bool = True
    """Whether there are any, and whether events of a camera that shows nothing are held back."""
    offline_after_s: float = Field(default=30.0, gt=0, le=86_400)
    """How long no frame of a camera must have arrived for it to be reported as offline. An event that is open then ends."""


class RegistrySettings(Section):
    """Which cameras are watched. Messages of others are refused before their images are decoded."""

    allowed: tuple[CameraId, ...] = ()
    """The cameras that are watched, and no others. If empty: all that come, up to ``max_cameras``."""
    max_cameras: int = Field(default=500, ge=1, le=100_000)
    """How many cameras one process takes on if ``allowed`` is empty; each costs about 2 MB of memory. Those with stored progress
    come first. Further ones are refused, until one that is watched has been silent for ``idle_after_s`` and makes room."""
    idle_after_s: float = Field(default=600.0, ge=60, le=86_400)
    """What is held of a camera in memory is dropped after so long without a frame, and it may be forgotten if another one needs
    the room. Never less than ``decision.max_gap_s``."""


class LimitSettings(Section):
    """Which frames are not looked at, so that no camera starves another, and events stay timely. They are counted."""

    mode: Literal["live", "archive"] | None = None
    """``live`` keeps limits, ``archive`` none. If not set: ``archive`` if ``kafka.start`` is ``earliest``, else ``live``."""
    max_fps: float = Field(default=30.0, gt=0, le=1000)
    """Most frames a second of one camera, by its clock and by its records' times; of more, an even choice is looked at."""
    max_frame_age_s: float = Field(default=300.0, ge=1, le=604_800)
    """A frame that has waited in Kafka for longer is not looked at, nor are those of its camera behind it, until one is half as
    old; there the camera starts afresh. So an outage that is shorter costs no frame."""


class CameraSettings(Section):
    """What holds for one camera: thresholds instead of its profile's or the bundle's, and its quota of frames."""

    enter: float | None = None
    """An event starts with a score at or above this threshold."""
    exit: float | None = None
    """An event goes on while scores reach this threshold; at most ``enter``. If only ``enter`` is set, two thirds of the way from
    the median score to it."""
    max_fps: float | None = Field(default=None, gt=0, le=1000)
    """Instead of ``limits.max_fps``."""
    masks: tuple[Polygon, ...] = ()
    """Parts of the picture that nobody may see: polygons of corners ``[x, y]`` as shares of width and height. They are black in
    everything that is stored or shown of the camera, and nothing is scored there."""
    zones: tuple[Zone, ...] = ()
    """Named parts of the picture, each ``{name, polygon, false_events_per_camera_day}``: events in them tell the name, and the
    budget there may be another one."""

    @property
    def areas(self) -> CameraAreas:
        """The areas of the settings."""
        return CameraAreas(masks=self.masks, zones=self.zones)


class HttpSettings(Section):
    """Where ``/metrics``, ``/livez`` and ``/readyz`` are served."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all interfaces."""
    port: int = Field(default=9108, ge=0, le=65535)
    """0 picks a free port, which is logged."""


class DashboardSettings(Section):
    """The web page for operators, ``oddsight-stream dashboard``."""

    host: str = "127.0.0.1"
    """Address to listen on; another one than this machine's own (``127.0.0.1``, ``::1``, ``localhost``) needs ``users`` or
    ``oidc``."""
    port: int = Field(default=9109, ge=0, le=65535)
    """0 picks a free port, which is logged."""
    users: Path | None = None
    """File of the users, which ``oddsight-stream users`` writes. Without it and ``oidc`` everybody on this machine may do
    everything."""
    session_hours: float = Field(default=12.0, gt=0, le=720)
    """How long somebody stays logged in."""
    oidc: OidcSettings | None = None
    """Signing in with OpenID Connect."""


class Settings(Section):
    """All settings of ``oddsight-stream``."""

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    engine: EngineSettings = EngineSettings()
    decode: DecodeSettings = DecodeSettings()
    batch: BatchSettings = BatchSettings()
    decision: DecisionSettings = DecisionSettings()
    learning: LearningSettings = LearningSettings()
    health: HealthSettings = HealthSettings()
    registry: RegistrySettings = RegistrySettings()
    limits: LimitSettings = LimitSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    http: HttpSettings = HttpSettings()
    dashboard: DashboardSettings = DashboardSettings()
    notify: NotifySettings = NotifySettings()
    cameras: dict[str, CameraSettings] = Field(default_factory=dict)

    @property
    def sheds_frames(self) -> bool:
        """Whether the limits are kept to."""
        return self.limits.mode == "live" or (self.limits.mode is None and self.kafka.start == "latest")


def served_bundle(settings: Settings) -> Bundle:
    """The bundle that the service serves with these settings. Raises BundleError."""
    return read_bundle(settings.engine.bundle or DEFAULT_BUNDLE, settings.engine.trusted_keys)


def camera_thresholds(settings: Settings, camera_id: str, calibration: Calibration) -> Thresholds:
    """One camera's thresholds: those in the settings, else the ones that keep the budget.

    Raises ConfigError if the exit threshold is above the enter threshold.
    """
    camera, times = settings.cameras.get(camera_id, CameraSettings()), decision_times(settings)
    if camera.enter is None:
        calibrated = thresholds(calibration, settings.decision.false_events_per_camera_day, times)
    else:
        calibrated = thresholds_at(calibration, camera.enter, times)
    if camera.exit is None:
        return calibrated
    if camera.exit > calibrated.enter:
        raise ConfigError(f"cameras.{camera_id}.exit must be at most its enter threshold ({calibrated.enter}), got {camera.exit}")
    return calibrated._replace(exit=camera.exit, bound=math.inf)  # events were counted with another exit threshold


def decision_times(settings: Settings) -> DecisionTimes:
    """The times of the decision rule, the same for all cameras."""
    decision = settings.decision
    return DecisionTimes(min_duration_ms=round(decision.min_duration_s * 1000), merge_gap_ms=round(decision.merge_gap_s * 1000))


def decision_rule(settings: Settings, limits: Thresholds) -> DecisionRule:
    """The decision rule of a camera with these thresholds."""
    return DecisionRule(
        enter=limits.enter,
        exit=limits.exit,
        update_interval_ms=max(1, round(settings.decision.update_interval_s * 1000)),
        **decision_times(settings).model_dump(),
    )
