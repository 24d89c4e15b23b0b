"""Messages to an MQTT broker, and a retained state of each camera."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from deploy.errors import first_line
from streamer.interfaces import DeliveryFailed
from streamer.notify.messages import Message
from streamer.notify.senders.sender import tls_context
from streamer.receivers import MqttSettings, secret_of

_NO_CAMERA: Final = "-"
"""Stands for the camera's name in the topic of a message that is of none in particular."""
_SPECIAL: Final = re.compile(r"[%/+#$]")


class _Publication(NamedTuple):
    """What is published under a topic."""

    topic: str
    payload: str
    is_retained: bool


class Mqtt:
    """Publishes messages. It connects for each of them: they are rare, and so nothing waits in the client's own queue."""

    def __init__(self, name: str, settings: MqttSettings) -> None:
        """Raises ConfigError."""
        self._settings, self._password = settings, secret_of(name, settings, "password")
        self._tls = tls_context(name, settings) if settings.tls else None
        self.place = f"{settings.host}:{settings.port_in_force}"

    def send(self, message: Message) -> None:
        with self._connected() as client:
            for each in self._publications(message):
                self._publish(client, each)

    def lacks(self, message: Message) -> bool:
        return False

    def close(self) -> None:
        """Nothing stays open."""

    def _publications(self, message: Message) -> Iterator[_Publication]:
        settings, event = self._settings, message.event
        yield _Publication(_topic(settings.topic, message), json.dumps(message.content, ensure_ascii=False), is_retained=False)
        if settings.state_topic is not None and event is not None:
            state = "OFF" if event.kind == "end" else "ON"
            yield _Publication(_topic(settings.state_topic, message), state, is_retained=True)

    def _publish(self, client: paho.Client, each: _Publication) -> None:
        try:
            sent = client.publish(each.topic, each.payload.encode(), qos=1, retain=each.is_retained)
            sent.wait_for_publish(self._settings.timeout_s)
        except (ValueError, RuntimeError) as error:
            raise DeliveryFailed(f"{self.place}: {first_line(error)}") from error
        if not sent.is_published():
            raise DeliveryFailed(f"{self.place}: the broker did not acknowledge a message in time")

    @contextmanager
    def _connected(self) -> Iterator[paho.Client]:
        client, answered, refusals = self._client(), threading.Event(), list[str]()

        def on_connect(_client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                refusals.append(str(reason))
            answered.set()

        client.on_connect = on_connect
        try:
            client.connect(self._settings.host, self._settings.port_in_force)
        except (OSError, ValueError) as error:
            raise DeliveryFailed(f"{self.place}: {first_line(error)}") from error
        client.loop_start()
        try:
            if not answered.wait(self._settings.timeout_s) or refusals:
                raise DeliveryFailed(f"{self.place}: {refusals[0] if refusals else 'no answer in time'}")
            yield client
        finally:
            client.disconnect()
            client.loop_stop()

    def _client(self) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.connect_timeout = self._settings.timeout_s
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        return client


def _topic(pattern: str, message: Message) -> str:
    name = _NO_CAMERA if message.camera_id is None else message.camera_id
    return pattern.replace("{camera_id}", _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", name))
