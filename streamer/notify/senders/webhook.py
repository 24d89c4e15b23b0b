"""Messages to a URL, signed if there is a secret."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3 import HTTPHeaderDict
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from deploy.errors import ConfigError
from streamer.interfaces import DeliveryFailed, MessageRefused
from streamer.notify.messages import Message
from streamer.notify.senders.sender import tls_context
from streamer.receivers import WebhookSettings, secret_of
from streamer.templates import fill, is_json

SIGNATURE_HEADER: Final = "Oddsight-Signature"
_REFUSED: Final = {400, 413, 415, 422}
"""What is wrong with this message. Other statuses may be mended at the receiver, or pass."""

# Special before general. Texts of the library may hold the URL.
_REASONS: Final = (
    (NameResolutionError, "the host name does not resolve"),
    (NewConnectionError, "nothing listens there, or it cannot be reached"),
    (ConnectTimeoutError, "no connection in time"),
    (ReadTimeoutError, "no answer in time"),
    (SSLError, "TLS failed: check the certificate, and ca_file"),
    (ProtocolError, "the connection broke off"),
)


class Webhook:
    """Posts messages to a URL."""

    def __init__(self, name: str, settings: WebhookSettings, wall_clock_s: Callable[[], float] = time.time) -> None:
        """Raises ConfigError."""
        url, self._secret = secret_of(name, settings, "url"), secret_of(name, settings, "secret")
        if url is None:
            raise ConfigError(f"notify.receivers.{name}: either url or url_file must be set")
        self._url, self._settings, self._wall_clock_s = url, settings, wall_clock_s
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        self._pool = urllib3.PoolManager(1, timeout=settings.timeout_s, ssl_context=tls_context(name, settings))

    def send(self, message: Message) -> None:
        body = self._body(message).encode()
        try:
            # Without retries no redirect is followed either.
            answer = self._pool.request(
                "POST", self._url, body=body, headers=self._headers(message, body), retries=False, preload_content=False
            )
        except HTTPError as error:
            reason = next((text for kind, text in _REASONS if isinstance(error, kind)), type(error).__name__)
            raise DeliveryFailed(f"{self.place}: {reason}") from error
        with closing(answer):  # unread, since it may be endless
            if not 200 <= answer.status < 300:
                kind = MessageRefused if answer.status in _REFUSED else DeliveryFailed
                raise kind(f"{self.place} answered {answer.status}")

    def lacks(self, message: Message) -> bool:
        return False

    def close(self) -> None:
        self._pool.clear()

    def _body(self, message: Message) -> str:
        if self._settings.template is not None:
            return fill(self._settings.template, message.fields)
        return json.dumps(message.content, ensure_ascii=False)

    def _headers(self, message: Message, body: bytes) -> HTTPHeaderDict:
        template = self._settings.template
        content_type = "application/json" if template is None or is_json(template) else "text/plain; charset=utf-8"
        headers = HTTPHeaderDict({"Content-Type": content_type, "User-Agent": "oddsight", "Idempotency-Key": message.key})
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._secret, round(self._wall_clock_s()), body)
        for name, value in self._settings.headers.items():
            headers[name] = value.get_secret_value()
        return headers


def signature(secret: str, at_s: int, body: bytes) -> str:
    """Shows a receiver who knows the secret that the body is ours, and when it was sent."""
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"
