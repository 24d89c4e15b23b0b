"""Messages by mail, with the picture of the event."""

import smtplib
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final

import structlog

from deploy.errors import first_line
from streamer.evidence.files import EvidenceFiles
from streamer.evidence.store import event_folder
from streamer.interfaces import DeliveryFailed, MessageRefused, StoreUnavailable
from streamer.notify.messages import Message
from streamer.notify.senders.sender import tls_context
from streamer.receivers import EmailSettings, secret_of
from streamer.templates import fill

log = structlog.get_logger("oddsight.notify")

_MOST_PICTURE_BYTES: Final = 5_000_000
_PERMANENT: Final = 500
"""From this SMTP status on, the same message is not to be sent again."""


class Mail:
    """Sends mail. It connects for each message."""

    def __init__(
        self, name: str, settings: EmailSettings, evidence: EvidenceFiles | None, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        """``evidence``: where pictures lie, if there are any. Raises ConfigError."""
        self._settings, self._evidence, self._wall_clock_s = settings, evidence, wall_clock_s
        self._password = secret_of(name, settings, "password")
        self._tls = tls_context(name, settings)
        self.place = f"{settings.host}:{settings.port_in_force}"

    def send(self, message: Message) -> None:
        mail = self._mail(message)
        try:
            server = self._connect()
            try:
                refused = server.send_message(mail)
                with suppress(OSError, smtplib.SMTPException):  # the mail was taken
                    server.quit()
            finally:
                server.close()
        except smtplib.SMTPDataError as error:
            kind = MessageRefused if error.smtp_code >= _PERMANENT else DeliveryFailed
            raise kind(f"{self.place}: {first_line(error)}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryFailed(f"{self.place}: {first_line(error)}") from error
        if refused:
            log.warning("some addresses were refused", place=self.place, addresses=sorted(refused))

    def lacks(self, message: Message) -> bool:
        name = _picture_name(message)
        if self._evidence is None or name is None:
            return False
        try:
            return self._evidence.find(name) is None
        except StoreUnavailable:  # people are told without waiting for it
            return False

    def close(self) -> None:
        """Nothing stays open."""

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        where = settings.host, settings.port_in_force
        server: smtplib.SMTP
        if settings.tls == "tls":
            server = smtplib.SMTP_SSL(*where, timeout=settings.timeout_s, context=self._tls)
        else:
            server = smtplib.SMTP(*where, timeout=settings.timeout_s)
        try:
            if settings.tls == "starttls":
                server.starttls(context=self._tls)
            if settings.username is not None:
                server.login(settings.username, self._password or "")
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, message: Message) -> EmailMessage:
        settings, mail = self._settings, EmailMessage()
        mail["From"], mail["To"] = settings.sender, ", ".join(settings.to)
        mail["Subject"] = " ".join(fill(settings.subject, message.fields).split())
        mail["Date"] = formatdate(self._wall_clock_s())
        mail["Message-ID"] = f"<{message.key}@{settings.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail["Idempotency-Key"] = message.key
        mail.set_content(fill(settings.body, message.fields))
        picture = self._picture(message)
        if picture is not None:
            mail.add_attachment(picture, "image", "jpeg", filename="picture.jpg")
        return mail

    def _picture(self, message: Message) -> bytes | None:
        name = _picture_name(message)
        if self._evidence is None or name is None:
            return None
        try:
            return self._evidence.read(name, _MOST_PICTURE_BYTES)
        except StoreUnavailable as error:
            log.warning("a mail goes without its picture", key=message.key, error=str(error))
            return None


def _picture_name(message: Message) -> str | None:
    """None for what is no event, and for an event_id that is none."""
    event = message.event
    try:
        return None if event is None else f"{event_folder(event.event_id, event.started_at_ms)}/picture.jpg"
    except ValueError:
        return None
