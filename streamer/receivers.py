"""The settings of ``oddsight-stream notify``: who is told of events and of problems with cameras, and how."""

import re
from datetime import time
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from deploy.errors import ConfigError
from deploy.profile_learning import Channel
from streamer.section import Section, read_secret
from streamer.templates import check_template

ReceiverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
SECRETS = ("url", "secret", "password")
"""Settings of receivers that hold secrets; each may also be read from a file, ``url_file`` and so on."""

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_TOPIC = re.compile(r"([^+#{}\x00]|\{camera_id\})+")


class QuietHours(NamedTuple):
    """A part of each day, in local time; it goes past midnight if it ends before it begins."""

    begin: time
    end: time

    def holds(self, now: time) -> bool:
        """Whether ``now`` lies in it; its end does not."""
        if self.begin < self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end


def parse_hours(text: str) -> QuietHours:
    """Quiet hours as in the settings. Raises ValueError."""
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError("quiet hours must be HH:MM-HH:MM, such as 22:00-06:00")
    begin_h, begin_min, end_h, end_min = map(int, found.groups())
    hours = QuietHours(time(begin_h, begin_min), time(end_h, end_min))
    if hours.begin == hours.end:
        raise ValueError("quiet hours must not end when they begin")
    return hours


def check_url(url: str) -> str:
    """The URL of a webhook itself. Raises ValueError, which does not show it, because it may hold a token."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port or an address in brackets that is none
        is_url = False
    if not is_url or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a URL must be http://HOST:PORT/PATH or https://HOST:PORT/PATH")
    if "@" in parts.netloc:
        raise ValueError("a URL must not hold a user or a password: send them in headers")
    return url


def _checked_url(url: SecretStr) -> SecretStr:
    check_url(url.get_secret_value())
    return url


def _hours(text: str) -> str:
    parse_hours(text)
    return text


def _glob(text: str) -> str:
    """Only what :mod:`fnmatch` takes as it is meant: it would take a bracket without its partner literally."""
    if not text or re.sub(r"\[!?[^\]]+\]", "", text).count("[") or "]" in re.sub(r"\[!?[^\]]+\]", "", text):
        raise ValueError("a pattern of cameras has *, ? and [...], whose brackets must be closed")
    return text


def _topic(text: str) -> str:
    if _TOPIC.fullmatch(text) is None:
        raise ValueError("a topic must not hold + or #, and no placeholder but {camera_id}")
    return text


def _header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable():
        raise ValueError("the value of a header must be printable ASCII")
    return value


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:  # KeyError: the system has no such file
        raise ValueError("no such time zone; it must be a name such as Europe/Berlin") from error
    return name


Template = Annotated[str, AfterValidator(check_template)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")]
EmailAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}$")]
Topic = Annotated[str, AfterValidator(_topic)]


class AnyReceiver(Section):
    """Settings that every kind of receiver has."""

    kinds: tuple[Literal["start", "update", "end"], ...] = ("start",)
    """Which entries of events are told."""
    health: bool = False
    """Whether problems with cameras are told: that they begin, and that they are over."""
    cameras: tuple[Annotated[str, AfterValidator(_glob)], ...] = ("*",)
    """Of which cameras; patterns with ``*``, ``?`` and ``[...]``."""
    channels: tuple[Channel, ...] = ("speed", "appearance", "dwell")
    """Only events that one of these raised: ``speed``, ``appearance``, ``dwell``. An event of which that is not known is told."""
    cooldown_s: float = Field(default=0.0, ge=0, le=604_800)
    """After an event of a camera was told, further ones are only counted for so long, and told with the next: "and 3 more"."""
    quiet_hours: Annotated[str, AfterValidator(_hours)] | None = None
    """``22:00-06:00``: nothing is told then, and what there was is summed up in one message at the end."""
    escalate_after_s: float | None = Field(default=None, gt=0, le=604_800)
    """An event is told only if nobody has acknowledged or judged it within this time, a problem only if it lasts for so long."""
    timeout_s: float = Field(default=10.0, gt=0, le=120)
    """How long the receiver may take to answer."""
    give_up_after_s: float = Field(default=86_400.0, gt=0, le=2_592_000)
    """A message that could not be delivered for so long is given up, which is logged and counted."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the receiver's certificate; without it, the system's authorities are trusted."""

    @model_validator(mode="after")
    def _tells_something(self) -> "AnyReceiver":
        if not self.kinds and not self.health:
            raise ValueError("nothing would be told: kinds is empty, and health is false")
        return self


class WebhookSettings(AnyReceiver):
    """A URL that gets a POST with JSON, or with a text of your own."""

    kind: Literal["webhook"]
    """``webhook``."""
    url: Annotated[SecretStr, AfterValidator(_checked_url)] | None = None
    """``https://`` or ``http://``. It is treated as a secret, since many hold a token. Redirects are not followed."""
    url_file: Path | None = None
    """File that holds ``url``."""
    secret: SecretStr | None = None
    """Key of the signature in the header ``Oddsight-Signature``; without it, nothing is signed."""
    secret_file: Path | None = None
    """File that holds ``secret``."""
    headers: dict[HeaderName, Annotated[SecretStr, AfterValidator(_header_value)]] = Field(default_factory=dict)
    """Further headers, such as ``{Authorization = "Bearer ..."}``."""
    template: Template | None = None
    """The body, with placeholders such as ``$camera_id`` and ``$message``; without it, the event as JSON."""

    @model_validator(mode="after")
    def _one_url(self) -> "WebhookSettings":
        if (self.url is None) == (self.url_file is None):
            raise ValueError("either url or url_file must be set")
        return self


class MqttSettings(AnyReceiver):
    """A broker of MQTT, which home automation and many control rooms listen to."""

    kind: Literal["mqtt"]
    """``mqtt``."""
    host: str = Field(min_length=1)
    """Name or address of the broker."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """If not set: 8883 with ``tls``, else 1883."""
    tls: bool = False
    """Whether the connection is encrypted."""
    username: str | None = None
    """User name, if the broker asks for one."""
    password: SecretStr | None = None
    """Password."""
    password_file: Path | None = None
    """File that holds ``password``."""
    topic: Topic = "oddsight/{camera_id}/events"
    """Topic of the messages, as JSON, with quality of service 1. A ``/`` or the like in a camera's name is written as ``%2F``."""
    state_topic: Topic | None = None
    """Topic of a retained ``ON`` while an event goes on, else ``OFF``, such as ``oddsight/{camera_id}/state``."""

    @model_validator(mode="after")
    def _state_is_true(self) -> "MqttSettings":
        waits = self.cooldown_s or self.quiet_hours is not None or self.escalate_after_s is not None
        if self.state_topic is not None and (waits or not {"start", "end"} <= set(self.kinds)):
            raise ValueError(
                "state_topic needs start and end among kinds, and no cooldown_s, quiet_hours or escalate_after_s: "
                "else the state would be wrong"
            )
        return self

    @property
    def port_in_force(self) -> int:
        """The port that is connected to."""
        return self.port or (8883 if self.tls else 1883)


class EmailSettings(AnyReceiver):
    """Mail through an SMTP server, with the picture of the event if the evidence is stored."""

    kind: Literal["email"]
    """``email``."""
    host: str = Field(min_length=1)
    """Name or address of the SMTP server."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """If not set: 587 with ``starttls``, 465 with ``tls``, 25 with ``none``."""
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted; nothing is sent if it cannot be."""
    username: str | None = None
    """User name, if the server asks for one."""
    password: SecretStr | None = None
    """Password."""
    password_file: Path | None = None
    """File that holds ``password``."""
    sender: EmailAddress = Field(alias="from")
    """Address that the mail comes from."""
    to: tuple[EmailAddress, ...] = Field(min_length=1)
    """Addresses that it goes to."""
    subject: Template = "Oddsight: $message"
    """Subject, with placeholders."""
    body: Template = "$message\n\n$dashboard_url\n"
    """Text, with placeholders."""

    @property
    def port_in_force(self) -> int:
        """The port that is connected to."""
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.tls]


class KafkaTopicSettings(AnyReceiver):
    """A topic of the Kafka cluster of ``[kafka]``, for programs that already listen there.

    All ``kinds`` are sent unless others are set, and ``give_up_after_s`` is 30 days.
    """

    kind: Literal["kafka"]
    """``kafka``."""
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """The topic, which is created if it is missing. The key is the ``camera_id``, so that a camera's events stay in order."""
    kinds: tuple[Literal["start", "update", "end"], ...] = ("start", "update", "end")
    give_up_after_s: float = Field(default=2_592_000.0, gt=0, le=2_592_000)

    @model_validator(mode="after")
    def _connects_as_the_service(self) -> "KafkaTopicSettings":
        if self.ca_file is not None:
            raise ValueError("ca_file must not be set: kafka.ca_file holds")
        return self


Receiver = Annotated[WebhookSettings | MqttSettings | EmailSettings | KafkaTopicSettings, Field(discriminator="kind")]


class NotifySettings(Section):
    """Who is told of events and of problems with cameras by ``oddsight-stream notify``."""

    dashboard_url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    """Where the dashboard is reached; messages then link to their event there."""
    timezone: Annotated[str, AfterValidator(_zone)] | None = None
    """Time zone of ``quiet_hours`` and of times in messages, such as ``Europe/Berlin``; if not set, that of this machine."""
    host: str = "127.0.0.1"
    """Address on which ``/metrics``, ``/livez`` and ``/readyz`` of the process are served."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port for them; if not set, they are not served. 0 picks a free port, which is logged."""
    receivers: dict[ReceiverName, Receiver] = Field(default_factory=dict)
    """Who is told: ``[notify.receivers.NAME]``."""

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone; None for that of this machine."""
        return None if self.timezone is None else ZoneInfo(self.timezone)


def secret_of(name: str, receiver: AnyReceiver, key: str) -> str | None:
    """One of the :data:`SECRETS` of a receiver, from the settings or its file. Raises ConfigError."""
    value, path = getattr(receiver, key), getattr(receiver, f"{key}_file")
    if value is not None and path is not None:
        raise ConfigError(f"notify.receivers.{name}: either {key} or {key}_file must be set, not both")
    if path is None:
        return None if value is None else str(value.get_secret_value())
    where = f"notify.receivers.{name}.{key}_file"
    content = read_secret(where, path)
    if key == "url":
        try:
            check_url(content)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return content


def check_receivers(settings: NotifySettings) -> None:
    """Read the files that hold secrets. Raises ConfigError."""
    for name, receiver in settings.receivers.items():
        for key in SECRETS:
            if key in type(receiver).model_fields:
                secret_of(name, receiver, key)
        if receiver.ca_file is not None and not receiver.ca_file.is_file():
            raise ConfigError(f"notify.receivers.{name}.ca_file: {receiver.ca_file} is no file")
