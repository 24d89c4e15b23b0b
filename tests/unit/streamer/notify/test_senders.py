"""What a receiver gets, and what of a receiver may be shown; no socket is opened."""

import hashlib
import hmac
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import ConfigError
from streamer.config import Settings
from streamer.evidence.store import event_folder
from streamer.notify.messages import message_of, trial_message
from streamer.notify.notices import key_of, problem_of
from streamer.notify.run import make_sender, run_notify, send_trial
from streamer.notify.senders.mail import Mail
from streamer.notify.senders.mqtt import Mqtt
from streamer.notify.senders.webhook import Webhook, signature
from streamer.receivers import NotifySettings
from streamer.templates import check_template, fill
from tests.harness.fakes import FakeClock
from tests.harness.notices import NOON_S, event, health_entry

WEBHOOK = {"kind": "webhook", "url": "https://host:8443/TOKEN?key=TOKEN"}
EMAIL = {"kind": "email", "host": "mail", "from": "oddsight@example.org", "to": ["a@example.org", "b@example.org"]}
ROOT = Path(__file__).parents[4]


def settings_with(receiver: dict[str, Any], **more: Any) -> Settings:
    return Settings.model_validate({"notify": {"timezone": "UTC", "receivers": {"ops": receiver}}, **more})


def sender_of(receiver: dict[str, Any], **more: Any) -> Any:
    settings = settings_with(receiver, **more)
    return make_sender("ops", settings.notify.receivers["ops"], settings)


def test_an_event_is_told_in_a_line_and_as_json() -> None:
    told = event("0123456789abcdef", zones="till", text="stays where nothing stays so long", peak_score=2.586)
    message = message_of(told, NotifySettings(dashboard_url="https://dash/", timezone="UTC"), more=3)
    assert message.text == (
        "gate: stays where nothing stays so long (till); score 2.59, threshold 0.5, and 3 more since the last one told"
    )
    assert message.content["dashboard_url"] == "https://dash/#/event/0123456789abcdef"
    assert (message.key, message.content["key"]) == ("0123456789abcdef-start", "0123456789abcdef-start")
    assert (message.content["more"], message.content["started_at"]) == (3, "2023-11-15 12:00:00+00:00")
    assert told == type(told).model_validate({name: str(message.content[name]) for name in told.fields()})


def test_the_end_tells_how_long_it_lasted_in_local_time() -> None:
    ended = event(kind="end", ended_at_ms=NOON_S * 1000 + 12_400)
    message = message_of(ended, NotifySettings(timezone="Asia/Tokyo"))
    assert message.text == "gate: over after 12 s"
    assert message.content["started_at"] == "2023-11-15 21:00:00+09:00"


def test_start_and_end_of_problems_have_different_keys_and_the_same_one_each_time() -> None:
    start, again, end = (problem_of(health_entry(kind)) for kind in ("start", "start", "end"))
    assert start is not None
    assert again is not None
    assert end is not None
    assert key_of(start) == key_of(again) != key_of(end)
    assert "problem" in message_of(start, NotifySettings()).content


def test_a_key_can_be_sent_as_a_header_whatever_lies_in_redis() -> None:
    assert re.fullmatch("[ -~]+", key_of(event("ä\r\nX: y")))


@given(st.text(), st.text(min_size=1))
def test_no_field_breaks_out_of_a_json_template(camera_id: str, message: str) -> None:
    template = check_template('{"text": "at $camera_id: ${message}", "more": ["$$5", {"x": 1, "$key": null}]}')
    filled = json.loads(fill(template, {"camera_id": camera_id, "message": message}))
    assert filled == {"text": f"at {camera_id}: {message}", "more": ["$5", {"x": 1, "$key": None}]}


def test_a_field_that_does_not_apply_is_empty() -> None:
    assert fill("$camera_id/$problem/$$", {"camera_id": "gate"}) == "gate//$"


@given(st.text(min_size=1), st.integers(0, 2**33), st.binary())
def test_a_signature_is_checked_as_the_documentation_says(secret: str, at_s: int, body: bytes) -> None:
    snippet = re.search(r"```python\n(def is_from_oddsight.*?)```", (ROOT / "docs/notify.md").read_text("utf-8"), re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {
        "time": type("Clock", (), {"time": staticmethod(lambda: at_s + 60)}),
        "hmac": hmac,
        "hashlib": hashlib,
    }
    exec(snippet[1], names)  # noqa: S102  what readers copy
    header = signature(secret, at_s, body)
    assert names["is_from_oddsight"](secret, header, body)
    assert not names["is_from_oddsight"](secret, header, body + b"x")
    assert not names["is_from_oddsight"](secret + "x", header, body)
    assert not names["is_from_oddsight"](secret, signature(secret, at_s - 600, body), body)


def test_a_webhook_has_its_headers_and_shows_no_more_than_its_host() -> None:
    headers = {"Authorization": "Bearer x", "user-agent": "mine"}
    settings = settings_with({**WEBHOOK, "secret": "s", "headers": headers}).notify.receivers["ops"]
    webhook = Webhook("ops", settings, FakeClock(NOON_S))  # type: ignore[arg-type]  # it is a webhook
    assert webhook.place == "https://host:8443"
    sent = webhook._headers(message_of(event(), NotifySettings()), b"{}")
    assert dict(sent) == {
        "Content-Type": "application/json",
        "user-agent": "mine",
        "Idempotency-Key": "e-start",
        "Oddsight-Signature": signature("s", NOON_S, b"{}"),
        "Authorization": "Bearer x",
    }


def test_a_text_of_ones_own_is_sent_as_text() -> None:
    webhook = sender_of({**WEBHOOK, "template": "$message\n"})
    message = message_of(event(), NotifySettings())
    assert webhook._body(message) == f"{message.text}\n"
    assert webhook._headers(message, b"")["Content-Type"] == "text/plain; charset=utf-8"


def test_secrets_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("http://elsewhere/TOKEN\n")
    webhook = sender_of({"kind": "webhook", "url_file": path})
    assert (webhook.place, webhook._url) == ("http://elsewhere", "http://elsewhere/TOKEN")
    path.write_text("ftp://TOKEN")
    with pytest.raises(ConfigError, match=r"^notify.receivers.ops.url_file: a URL must be") as caught:
        sender_of({"kind": "webhook", "url_file": path})
    assert "TOKEN" not in str(caught.value)
    path.write_text(" \n")
    with pytest.raises(ConfigError, match=f"secret_file: {path} is empty"):
        sender_of({**WEBHOOK, "secret_file": path})
    with pytest.raises(ConfigError, match="either secret or secret_file must be set, not both"):
        sender_of({**WEBHOOK, "secret": "s", "secret_file": path})


def test_a_topic_has_no_room_for_other_topics() -> None:
    mqtt = sender_of({"kind": "mqtt", "host": "broker", "kinds": ["start", "end"], "state_topic": "x/{camera_id}"})
    assert isinstance(mqtt, Mqtt)
    topics = [each.topic for each in mqtt._publications(message_of(event(camera_id="a/+#%$ö é"), NotifySettings()))]
    assert topics == ["oddsight/a%2F%2B%23%25%24ö é/events", "x/a%2F%2B%23%25%24ö é"]
    trial = trial_message("ops", datetime.now(UTC))
    assert [each.topic for each in mqtt._publications(trial)] == ["oddsight/-/events"]


@pytest.mark.parametrize(("kind", "state"), [("start", "ON"), ("update", "ON"), ("end", "OFF")])
def test_the_state_follows_the_event_and_is_kept_by_the_broker(kind: str, state: str) -> None:
    mqtt = sender_of({"kind": "mqtt", "host": "broker", "kinds": ["start", "update", "end"], "state_topic": "s"})
    first, second = mqtt._publications(message_of(event(kind=kind), NotifySettings()))
    assert (first.is_retained, second) == (False, ("s", state, True))


def test_a_mail_is_complete_and_carries_the_picture(tmp_path: Path) -> None:
    mail = sender_of({**EMAIL, "subject": "$camera_id\n$kind"}, evidence={"dir": tmp_path})
    assert isinstance(mail, Mail)
    message = message_of(event("0123456789abcdef", camera_id="Süd-Tor"), NotifySettings(dashboard_url="http://dash"))
    assert mail.lacks(message)
    folder = tmp_path / event_folder("0123456789abcdef", NOON_S * 1000)
    folder.mkdir(parents=True)
    (folder / "picture.jpg").write_bytes(b"\xff\xd8jpeg")
    assert not mail.lacks(message)
    sent = mail._mail(message)
    assert (sent["From"], sent["To"]) == ("oddsight@example.org", "a@example.org, b@example.org")
    assert (sent["Subject"], sent["Message-ID"]) == ("Süd-Tor start", "<0123456789abcdef-start@example.org>")
    assert sent.get_body().get_content().splitlines() == [message.text, "", "http://dash/#/event/0123456789abcdef"]  # type: ignore[union-attr]  # it has a body
    (picture,) = sent.iter_attachments()
    assert (picture.get_content_type(), picture.get_content()) == ("image/jpeg", b"\xff\xd8jpeg")


def test_an_event_id_that_is_none_names_no_picture(tmp_path: Path) -> None:
    mail = sender_of(EMAIL, evidence={"dir": tmp_path})
    assert not mail.lacks(message_of(event("../../x"), NotifySettings()))
    assert list(mail._mail(message_of(event("../../x"), NotifySettings())).iter_attachments()) == []


def test_a_topic_is_none_of_the_services_own() -> None:
    for topic in ("frames", "frames.deadletter"):
        with pytest.raises(ConfigError, match=r"notify\.receivers\.ops\.topic must be another one than kafka\.topic"):
            sender_of({"kind": "kafka", "topic": topic})
    topic = sender_of({"kind": "kafka", "topic": "events"}, kafka={"bootstrap_servers": "k1:9092,k2:9092"})
    assert topic.place == "k1:9092,k2:9092, topic events"


def test_a_topic_gets_all_kinds_and_has_no_certificate_of_its_own() -> None:
    (receiver,) = settings_with({"kind": "kafka", "topic": "events"}).notify.receivers.values()
    assert (receiver.kinds, receiver.give_up_after_s) == (("start", "update", "end"), 30 * 86_400)
    with pytest.raises(ValueError, match=r"ca_file must not be set: kafka\.ca_file holds"):
        settings_with({"kind": "kafka", "topic": "events", "ca_file": "ca.pem"})


def test_without_receivers_there_is_nothing_to_do() -> None:
    with pytest.raises(ConfigError, match=r"notify\.receivers is empty"):
        run_notify(Settings(), None)  # type: ignore[arg-type]  # it ends before
    with pytest.raises(ConfigError, match=r"notify\.receivers\.nobody: no such receiver; there are: ops"):
        send_trial(settings_with(WEBHOOK), "nobody")
