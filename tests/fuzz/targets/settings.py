"""What operators write: the settings' file, addresses and URLs."""

import tempfile
from pathlib import Path

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from deploy.errors import ConfigError
from streamer.config import camera_thresholds, decision_rule
from streamer.ingest.streams import find_source, stream_name
from streamer.kafka.diagnostics import parse_address
from streamer.receivers import WebhookSettings
from streamer.redis.client import make_redis
from streamer.settings_file import load_settings, parse_settings, settings_toml
from streamer.templates import fill
from tests.fuzz.target import Target

_SETTINGS = b"""
[kafka]
bootstrap_servers = "kafka-1:9092,kafka-2:9092"
security_protocol = "SASL_SSL"
username = "oddsight"
password = "secret"
ca_file = "/etc/ssl/ca.pem"

[redis]
url = "redis://user:secret@redis:6379/0?health_check_interval=2"
max_scores = 1_000

[decision]
false_events_per_camera_day = 0.5
min_duration_s = 1e-1
merge_gap_s = 10

[learning]
enabled = true
footage_dir = '/var/lib/oddsight'

[cameras.gate]
enter = 0.5

[notify]
timezone = "UTC"

[notify.receivers.chat]
kind = "webhook"
url = "https://chat/secret"
headers = {Authorization = "Bearer secret"}
template = '{"text": "$message ${camera_id} $$"}'
cameras = ["gate-[0-9]*"]
quiet_hours = "22:00-06:00"

[notify.receivers.guard]
kind = "email"
host = "mail"
from = "oddsight@example.org"
to = ["guard@example.org"]
subject = "$camera_id"

[cameras."S\xc3\xbcd-Tor 3"]
enter = 0.7
exit = 0.4
"""
_TOML_TOKENS = [
    b"nan",
    b"inf",
    b"-inf",
    b"[[",
    b"]]",
    b'"""',
    b"'''",
    b"1979-05-27T07:32:00Z",
    b"0x",
    b"0b1",
    b"1_0",
    b"\\U00110000",
]


def settings_files() -> Target:
    """A file of settings, printed with its secrets hidden, and the rules of its cameras."""
    path = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-")) / "oddsight.toml"
    calibration = read_bundle(DEFAULT_BUNDLE).calibration

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        settings = load_settings(path, {})
        settings_toml(settings)
        for receiver in settings.notify.receivers.values():
            if isinstance(receiver, WebhookSettings) and receiver.template is not None:
                fill(receiver.template, {"camera_id": "gate", "message": '"'})
        for camera_id in settings.cameras:
            decision_rule(settings, camera_thresholds(settings, camera_id, calibration))

    base = Target("settings", parse, (ConfigError,), [_SETTINGS, b"[batch]\nmax_clips = 4\n"])
    return Target(base.name, parse, base.errors, base.valid, [*base.tokens, *_TOML_TOKENS, *_SETTINGS.split()], share=0.8)


def parse_addresses(text: str) -> None:
    """The addresses of brokers; by a ValueError the parser says which is none."""
    for part in text.split(","):
        try:
            parse_address(part)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def addresses() -> Target:
    """Addresses of Kafka, and URLs of Redis and of cameras; a client of Redis is made, but does not connect."""

    def parse(content: bytes) -> None:
        kind, text = content[:1], content[1:].decode(errors="replace")
        if kind == b"k":
            parse_addresses(parse_settings({"kafka": {"bootstrap_servers": text}}, "fuzz").kafka.bootstrap_servers)
        elif kind == b"r":
            settings = parse_settings({"redis": {"url": text}}, "fuzz").redis
            with make_redis(settings) as client:
                client.connection_pool.make_connection()
        else:
            stream_name(find_source(text, None, {}))

    urls = [b"rredis://user:secret@redis:6379/0?socket_timeout=3", b"rrediss://redis", b"runix:///run/redis.sock?db=1"]
    cameras = [b"crtsp://camera:554/stream", b"chttps://[fe80::1]:443/x?y=%40", b"cudp://239.0.0.1:5004"]
    kafka = [b"khost:9092,[::1]:9092, other", b"k127.0.0.1"]
    tokens = [b"[", b"]", b"@", b"%", b"://", b"?", b"&", b"=", b":", b",", b"9" * 5000, b"\0", "٣".encode(), b"#", b"/", b"db="]
    return Target("addresses", parse, (ConfigError,), [*urls, *cameras, *kafka], tokens, share=2)
