"""What every kind of receiver has in common."""

import ssl
from typing import Protocol

from deploy.errors import ConfigError
from streamer.notify.messages import Message
from streamer.notify.notices import ReceiverSettings


class Sender(Protocol):
    """Sends messages to one receiver, one at a time."""

    place: str
    """Where it is, as far as that may be shown: host and port."""

    def send(self, message: Message) -> None:
        """Send a message, and wait until the receiver has taken it.

        Raises:
            DeliveryFailed: try again later.
            MessageRefused: it is of no use to try again.
        """

    def lacks(self, message: Message) -> bool:
        """Whether something that belongs to the message may come within seconds."""

    def close(self) -> None:
        """Let go of what is open."""


def tls_context(name: str, receiver: ReceiverSettings) -> ssl.SSLContext:
    """How certificates are checked. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=receiver.ca_file)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"notify.receivers.{name}.ca_file: {receiver.ca_file}: {error.strerror or error}") from error
