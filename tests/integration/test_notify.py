"""Notifications from a real Redis to real receivers that are down at first, fail and come back: each message arrives once."""

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from streamer.cli import main
from streamer.config import KafkaSettings, RedisSettings, Settings
from streamer.demo.embedded import embedded_redis
from streamer.evidence.store import event_folder
from streamer.interfaces import DeliveryFailed, MessageRefused
from streamer.kafka.history import MessageHistory
from streamer.notify.run import run_notify, send_trial
from streamer.notify.senders.kafka import KEY_HEADER
from streamer.notify.senders.webhook import signature
from streamer.notify.worker import Backoff
from streamer.redis.client import make_redis
from streamer.redis.lease import Lease
from streamer.redis.operators import Mark, OperatorStore
from streamer.types import FrameMessage
from tests.harness.brokers import Broker, free_ports, unique_kafka_settings
from tests.harness.notices import event_entry, health_entry
from tests.harness.receivers import (
    MOSQUITTO,
    Certificate,
    Mosquitto,
    Published,
    http_receiver,
    mail_server,
    make_certificate,
    subscription,
)
from tests.harness.redis_servers import wait_until

FAST = Backoff(first_s=0.05, most_s=0.2)
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


class Stage:
    """Redis, the settings of one receiver, and a process that notifies it."""

    def __init__(self, settings: RedisSettings, client: redis.Redis) -> None:
        self.redis, self.client = settings, client

    def settings(self, receiver: dict[str, Any], **more: Any) -> Settings:
        notify = {"receivers": {"ops": receiver}, "timezone": "UTC", **more.pop("notify", {})}
        return Settings.model_validate({"redis": self.redis, "notify": notify, **more})

    @contextmanager
    def notifying(self, settings: Settings) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=run_notify, args=(settings, stop), kwargs={"backoff": FAST})
        thread.start()
        try:
            wait_until(lambda: self.has_groups(settings))  # of every receiver: a new one begins with the next entry
            yield
        finally:
            stop.set()
            thread.join(timeout=30)
            assert not thread.is_alive()

    def has_groups(self, settings: Settings) -> bool:
        """Whether all receivers have their consumer groups."""
        wanted = {f"notify.{name}" for name in settings.notify.receivers}
        streams: Any = [self.client.xinfo_groups(key) for key in (self.redis.health_key, self.redis.events_key)]
        return all(wanted <= {group["name"] for group in groups} for groups in streams)

    def add(self, event_id: str, kind: str = "start", **more: Any) -> None:
        self.client.xadd(self.redis.events_key, event_entry(event_id, kind, time.time(), **more))  # type: ignore[arg-type]  # texts

    def pending(self) -> int:
        counts: list[Any] = [self.client.xpending(key, "notify.ops") for key in (self.redis.events_key, self.redis.health_key)]
        return sum(count["pending"] for count in counts)


@pytest.fixture
def stage(redis_settings: RedisSettings) -> Iterator[Stage]:
    with make_redis(redis_settings) as client:
        yield Stage(redis_settings, client)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def ready(port: int) -> str:
    """What /readyz says; empty if nothing listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return str(answer.read().decode().strip())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode().strip()
    except OSError:
        return ""


def test_a_webhook_that_is_down_then_fails_then_works_gets_all_once_through_a_restart(stage: Stage) -> None:
    port, own_port = free_ports(2)
    receiver = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/hook?token=TOKEN", "secret": "key", "health": True}
    settings = stage.settings(receiver, notify={"port": own_port, "dashboard_url": "https://dash"})
    with stage.notifying(settings):
        stage.add("a")
        wait_until(lambda: ready(own_port) == f"ops: http://127.0.0.1:{port}: nothing listens there, or it cannot be reached")
        stage.client.xadd(stage.redis.health_key, health_entry())  # type: ignore[arg-type]  # texts
    stage.add("b")
    with http_receiver(port, [500, 302, 503]) as requests:
        with stage.notifying(settings):
            stage.add("c")
            wait_until(lambda: len(requests) == 3 + 4)
            wait_until(lambda: stage.pending() == 0)
            wait_until(lambda: ready(own_port) == "ok")
        with stage.notifying(settings):
            stage.add("d")
            wait_until(lambda: len(requests) == 3 + 5)
            wait_until(lambda: stage.pending() == 0)
    taken = [request for request in requests if request.status == 204]
    keys = [request.headers["Idempotency-Key"] for request in taken]
    assert [key.partition("-")[0] for key in keys] in (["a", "health", "b", "c", "d"], ["health", "a", "b", "c", "d"])
    assert {request.headers["Idempotency-Key"] for request in requests[:3]} == {keys[0]}
    for request in requests:
        sent_s = int(request.headers["Oddsight-Signature"].partition(",")[0].removeprefix("t="))
        assert request.headers["Oddsight-Signature"] == signature("key", sent_s, request.body)
    assert json.loads(taken[-1].body)["dashboard_url"] == "https://dash/#/event/d"


def test_a_broken_off_or_endless_answer_counts_as_a_failure(stage: Stage) -> None:
    (port,) = free_ports(1)
    settings = stage.settings({"kind": "webhook", "url": f"http://127.0.0.1:{port}/TOKEN", "timeout_s": 0.2})
    with http_receiver(port, [400]), pytest.raises(MessageRefused, match=rf"^http://127.0.0.1:{port} answered 400$"):
        send_trial(settings, "ops")
    with silent_server(port), pytest.raises(DeliveryFailed, match=rf"^http://127.0.0.1:{port}: no answer in time$"):
        send_trial(settings, "ops")


@contextmanager
def silent_server(port: int) -> Iterator[None]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_an_outage_of_one_receiver_holds_up_no_other(stage: Stage) -> None:
    silent, working = free_ports(2)
    ports = {"ops": silent, "other": working}
    webhook = {"kind": "webhook", "timeout_s": 1}
    receivers = {name: {**webhook, "url": f"http://127.0.0.1:{port}/"} for name, port in ports.items()}
    settings = stage.settings({}, notify={"receivers": receivers})
    with silent_server(silent), http_receiver(working) as requests, stage.notifying(settings):
        for number in range(20):
            stage.add(f"{number:02}")
        wait_until(lambda: len(requests) == 20)
        assert stage.pending() > 0
        stopped_s = time.monotonic()
    assert time.monotonic() - stopped_s < 10
    assert [request.headers["Idempotency-Key"] for request in requests] == [f"{number:02}-start" for number in range(20)]


def test_mail_arrives_once_with_its_picture_through_an_outage_and_a_restart(stage: Stage, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    receiver = {
        "kind": "email",
        "host": "127.0.0.1",
        "port": port,
        "tls": "none",
        "from": "o@example.org",
        "to": ["a@example.org"],
    }
    settings = stage.settings(receiver, evidence={"dir": tmp_path})
    ids = [f"{number:016x}" for number in range(3)]
    for event_id in ids:
        folder = tmp_path / event_folder(event_id, int(event_entry()["started_at_ms"]))
        folder.mkdir(parents=True)
        (folder / "picture.jpg").write_bytes(b"\xff\xd8" + event_id.encode())
    with stage.notifying(settings):
        stage.add(ids[0])
        wait_until(lambda: stage.pending() == 1)
    with mail_server(port, failures=2) as mails, stage.notifying(settings):
        stage.add(ids[1])
        wait_until(lambda: len(mails) == 2)
        wait_until(lambda: stage.pending() == 0)
    with mail_server(port) as later, stage.notifying(settings):
        stage.add(ids[2])
        wait_until(lambda: len(later) == 1)
        wait_until(lambda: stage.pending() == 0)
    assert [mail["Idempotency-Key"] for mail in (*mails, *later)] == [f"{event_id}-start" for event_id in ids]
    pictures = [part.get_content() for mail in (*mails, *later) for part in mail.iter_attachments()]
    assert pictures == [b"\xff\xd8" + event_id.encode() for event_id in ids]


@needs_mosquitto
def test_mqtt_messages_arrive_once_through_a_stop_of_the_broker_and_a_restart(stage: Stage, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    broker = Mosquitto(tmp_path, port)
    receiver = {"kind": "mqtt", "host": "127.0.0.1", "port": port, "kinds": ["start", "end"], "state_topic": "state/{camera_id}"}
    settings = stage.settings({**receiver, "timeout_s": 2})
    with stage.notifying(settings):
        stage.add("a", offset=1)
        wait_until(lambda: stage.pending() == 1)
    broker.start()
    try:
        with subscription(port, "#", "control-room") as got:
            with stage.notifying(settings):
                wait_until(lambda: len(live(got)) == 2)
                wait_until(lambda: stage.pending() == 0)
                broker.stop()
                stage.add("a", "end", offset=2)
                wait_until(lambda: stage.pending() == 1)
            broker.start()
            with stage.notifying(settings):
                stage.add("b", offset=3)
                wait_until(lambda: len(live(got)) == 6)
                wait_until(lambda: stage.pending() == 0)
        with subscription(port, "state/#", "latecomer") as retained:
            wait_until(lambda: bool(retained))
    finally:
        broker.stop()
    assert [each.payload["key"] for each in live(got) if each.topic == "oddsight/gate/events"] == ["a-start", "a-end", "b-start"]
    assert [each.payload for each in live(got) if each.topic == "state/gate"] == ["ON", "OFF", "ON"]
    assert [(each.payload, each.is_retained) for each in retained] == [("ON", True)]


def live(got: list[Published]) -> list[Published]:
    """Without what the broker repeats to whoever subscribes, again too."""
    return [each for each in got if not each.is_retained]


def topic_messages(kafka: KafkaSettings, topic: str) -> list[FrameMessage]:
    """All messages of a topic, in the order of each partition."""
    history = MessageHistory(kafka.model_copy(update={"topic": topic}))
    try:
        return [each for partition in history.partitions() for each in history.read(partition, 0)]
    finally:
        history.close()


@pytest.mark.timeout(180)
def test_a_topic_gets_every_entry_once_in_order_through_outages_of_both_sides(one_kafka_broker: Broker, tmp_path: Path) -> None:
    kafka, (port,) = unique_kafka_settings(one_kafka_broker.address), free_ports(1)
    topic = kafka.topic.replace("frames", "events")
    receiver = {"kind": "kafka", "topic": topic, "timeout_s": 2}
    server = embedded_redis(port, tmp_path)
    redis_settings = RedisSettings(url=server.__enter__())
    try:
        with make_redis(redis_settings) as client:
            stage = Stage(redis_settings, client)
            with stage.notifying(stage.settings(receiver, kafka=kafka)):
                stage.add("a", offset=1)
                stage.add("a", "update", offset=2)
                wait_until(lambda: stage.pending() == 0 and len(topic_messages(kafka, topic)) == 2)
                one_kafka_broker.kill()
                stage.add("a", "end", offset=3)
                stage.add("y", camera_id="yard")
                wait_until(lambda: stage.pending() == 2)
                server.__exit__(None, None, None)
                one_kafka_broker.start()
                server = embedded_redis(port, tmp_path)
                server.__enter__()
                wait_until(lambda: stage.pending() == 0)
                stage.add("b", offset=4)
                wait_until(lambda: client.xinfo_groups(redis_settings.events_key)[0]["lag"] == 0 and stage.pending() == 0)
    finally:
        server.__exit__(None, None, None)
    messages = topic_messages(kafka, topic)
    lost = ["a-start", "a-update-2"] if one_kafka_broker.kind == "embedded" else []  # that one comes back empty
    keys = [dict(each.headers)[KEY_HEADER].decode() for each in messages if each.key == b"gate"]
    assert keys == [key for key in ("a-start", "a-update-2", "a-end", "b-start") if key not in lost]
    (yard,) = [json.loads(each.value or b"") for each in messages if each.key == b"yard"]
    assert (yard["type"], yard["key"], yard["kind"], yard["peak_score"]) == ("event", "y-start", "start", 0.5)


def test_several_processes_share_the_receivers_and_one_takes_over_from_another(stage: Stage) -> None:
    (port,) = free_ports(1)
    settings = stage.settings(
        {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "cooldown_s": 3600, "kinds": ["start", "end"]}
    )
    with http_receiver(port) as requests, stage.notifying(settings):
        with stage.notifying(settings):
            stage.add("a", offset=1)
            stage.add("a", "end", offset=2)
            wait_until(lambda: len(requests) == 2)
            stage.add("b", offset=3)
            stage.add("y", camera_id="yard")
            wait_until(lambda: len(requests) == 3)
        stage.add("z", camera_id="hall")
        wait_until(lambda: len(requests) == 4)
        wait_until(lambda: stage.pending() == 0)
    assert [json.loads(request.body)["key"] for request in requests] == ["a-start", "a-end", "y-start", "z-start"]


def test_an_event_that_somebody_acknowledges_is_not_escalated(stage: Stage) -> None:
    (port,) = free_ports(1)
    settings = stage.settings({"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "escalate_after_s": 1})
    marks = OperatorStore(stage.client, stage.redis)
    about = {"camera_id": "gate", "user": "eva", "at_ms": 1}
    with http_receiver(port) as requests, stage.notifying(settings):
        for event_id in ("seen", "judged", "doubted", "commented"):
            stage.add(event_id)
        for event_id, kind in [("seen", "acknowledge"), ("judged", "false"), ("doubted", "true"), ("doubted", "unmark")]:
            marks.add_mark(Mark.model_validate({"event_id": event_id, "kind": kind, **about}))
        marks.add_mark(Mark.model_validate({"event_id": "commented", "kind": "comment", "text": "odd", **about}))
        wait_until(lambda: len(requests) == 2)
        wait_until(lambda: stage.pending() == 0)
    assert [json.loads(request.body)["event_id"] for request in requests] == ["doubted", "commented"]


def test_a_lease_is_held_by_one_until_it_lets_go_or_is_gone(stage: Stage) -> None:
    leases = [Lease(stage.client, f"{stage.redis.prefix}:lease", expires_s) for expires_s in (0.2, 10)]
    leases[0].renew()
    leases[1].renew()
    assert [(lease.is_held, lease.term) for lease in leases] == [(True, 1), (False, 0)]
    wait_until(lambda: renewed(leases[1]))  # the first one is gone
    leases[0].renew()
    assert [lease.is_held for lease in leases] == [False, True]
    leases[0].release()  # it is not its own
    leases[1].renew()
    assert leases[1].term == 1
    leases[1].release()
    leases[0].renew()
    assert [(lease.is_held, lease.term) for lease in leases] == [(True, 2), (False, 1)]


def renewed(lease: Lease) -> bool:
    lease.renew()
    return lease.is_held


@contextmanager
def mqtt_with_tls(folder: Path, port: int, certificate: Certificate) -> Iterator[None]:
    broker = Mosquitto(folder, port, certificate)
    broker.start()
    try:
        yield
    finally:
        broker.stop()


WITH_TLS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "webhook": ({"url": "https://127.0.0.1:{port}/"}, lambda _, port, tls: http_receiver(port, tls=tls)),
    "email": (
        {"host": "127.0.0.1", "username": "oddsight", "password": "secret", "from": "o@example.org", "to": ["a@example.org"]},
        lambda _, port, tls: mail_server(port, tls=tls),
    ),
    "mqtt": ({"host": "127.0.0.1", "tls": True}, mqtt_with_tls),
}


@pytest.mark.parametrize("kind", ["webhook", "email", pytest.param("mqtt", marks=needs_mosquitto)])
# paho-mqtt leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_a_receiver_must_show_a_certificate_that_is_trusted(kind: str, certificate: Certificate, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    receiver, serve = WITH_TLS[kind]
    receiver = {**receiver, **({"port": port} if kind != "webhook" else {"url": f"https://127.0.0.1:{port}/"}), "kind": kind}
    trusting = Settings.model_validate({"notify": {"receivers": {"ops": {**receiver, "ca_file": certificate.certificate}}}})
    with serve(tmp_path, port, certificate):
        wait_until(lambda: arrives(trusting))
        with pytest.raises(DeliveryFailed, match=r"TLS failed|CERTIFICATE_VERIFY_FAILED"):
            send_trial(Settings.model_validate({"notify": {"receivers": {"ops": receiver}}}), "ops")
        if kind == "email":
            wrong = trusting.notify.receivers["ops"].model_copy(update={"username": "mallory"})
            refused = trusting.model_copy(update={"notify": trusting.notify.model_copy(update={"receivers": {"ops": wrong}})})
            with pytest.raises(DeliveryFailed, match="535"):
                send_trial(refused, "ops")


def arrives(settings: Settings) -> bool:
    """Whether a test message arrives; a broker that has just been started may not listen yet."""
    try:
        return bool(send_trial(settings, "ops"))
    except DeliveryFailed:
        return False


@pytest.mark.parametrize(
    ("statuses", "code", "said"),
    [
        ([], 0, "ops: the message arrived at http://127.0.0.1:{port}\n"),
        ([404], 1, "error: http://127.0.0.1:{port} answered 404\n"),
    ],
)
def test_the_command_sends_a_test_message_and_says_whether_it_arrived(
    statuses: list[int],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (port,) = free_ports(1)
    config = tmp_path / "oddsight.toml"
    config.write_text(f'[notify.receivers.ops]\nkind = "webhook"\nurl = "http://127.0.0.1:{port}/TOKEN"\n')
    monkeypatch.setattr(sys, "argv", ["oddsight-stream", "notify", "--test", "ops", "--config", str(config)])
    with http_receiver(port, statuses) as requests, pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out + printed.err) == (code, said.format(port=port))
    assert json.loads(requests[0].body)["type"] == "test"
