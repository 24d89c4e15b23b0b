"""Errors of the running service; the root and the rest of the tree are in ``deploy.errors``.

OddsightError
└── StreamError
    ├── BrokerUnavailable     Kafka cannot be reached: says whether name, port, silence, TLS or password is to blame
    ├── RedisUnavailable      Redis cannot be reached or refuses us
    ├── Fenced                another consumer moved this partition's progress: read it again
    ├── SourceUnavailable     a camera, file or folder gives no frames
    └── EmbeddedUnavailable   the demo's broker or Redis is not installed, or did not start
"""

from deploy.errors import OddsightError


class StreamError(OddsightError):
    """Something around the running service failed."""


class BrokerUnavailable(StreamError):
    """Kafka cannot be reached, or refuses us."""

    retriable = True


class RedisUnavailable(StreamError):
    """Redis cannot be reached, or refuses us."""

    retriable = True


class Fenced(StreamError):
    """The partition's progress in Redis is not where this consumer left it; nothing was written."""

    retriable = True


class SourceUnavailable(StreamError):
    """A camera, file or folder gives no frames."""

    retriable = True


class EmbeddedUnavailable(StreamError):
    """The embedded broker or Redis is not installed, or did not start."""
