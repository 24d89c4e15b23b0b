"""Errors of the running service. The root of the error tree is in :mod:`deploy.errors`."""

from deploy.errors import OddsightError


class StreamError(OddsightError):
    """The running service, or something it depends on, failed."""


class BrokerUnavailable(StreamError):
    """Kafka cannot be reached or refuses the connection; the message names host, port, TLS or password as the cause."""

    retriable = True


class RedisUnavailable(StreamError):
    """Redis cannot be reached or refuses a command."""

    retriable = True


class Fenced(StreamError):
    """Another consumer moved this partition's progress in Redis; nothing was written."""

    retriable = True


class SourceUnavailable(StreamError):
    """A camera, file or folder delivers no frames."""

    retriable = True


class EmbeddedUnavailable(StreamError):
    """The demo's embedded Kafka or Redis is not installed or did not start."""
