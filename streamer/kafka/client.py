"""Kafka clients for the service and ingest, and a plain reason if there is no connection.

All clients are made here, so that they agree on address and security. Before kafka-python connects, address and credentials are
checked step by step (:mod:`streamer.kafka.diagnostics`). Every function that connects raises BrokerUnavailable, which says why
there is no connection, or ConfigError if an address or the ``ca_file`` is invalid.

Behaviour of kafka-python 3.0.12 that users of :func:`make_consumer` rely on:

- ``auto_offset_reset="none"``: an offset that the broker no longer has raises ``OffsetOutOfRangeError`` from ``poll()``, with
  ``{TopicPartition: offset}`` in ``args[0]``. A partition with neither a committed offset nor a ``seek`` raises
  ``NoOffsetForPartitionError``, paused or not. The embedded broker does not report the former: it returns nothing.
- A rebalance listener runs in the client's own thread while the caller waits in ``poll()``: ``seek`` and ``pause`` are allowed
  there, any request to the broker raises ``RuntimeError``. The first assignment may be empty, followed by the real one.
- A dead broker raises nothing: ``poll()`` returns ``{}`` while the client reconnects in its own thread. ``commit`` and
  ``committed`` block for ever unless given ``timeout_ms``, ``end_offsets`` and ``beginning_offsets`` for 15 s; then they raise
  ``KafkaTimeoutError``.
"""

import importlib.util
import logging
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import kafka
import structlog
from kafka.errors import AuthorizationError, KafkaError, TopicAlreadyExistsError
from kafka.net.sasl import get_sasl_mechanism

from deploy.errors import ConfigError
from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable
from streamer.kafka.diagnostics import Address, SaslLogin, diagnose_broker, diagnose_connection, parse_address
from streamer.kafka.patches import logged_connection_errors, open_client

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Largest message sent; a topic's ``max.message.bytes`` must allow it."""

_BATCH_OVERHEAD_BYTES = 1024 * 1024
_DEADLETTER_RETENTION = {"retention.ms": str(14 * 86_400_000), "retention.bytes": str(1024**3)}
"""14 days and 1 GiB a partition: a camera that sends only rubbish fills no disk."""

log = structlog.get_logger(__name__)


def make_producer(settings: KafkaSettings, **overrides: Any) -> kafka.KafkaProducer:
    """A producer for frames: few large requests, in order, acknowledged by all replicas.

    Its buffer is not limited: the caller must limit what is not yet acknowledged. ``overrides`` as of :func:`make_consumer`.
    """
    options = {
        "acks": "all",
        "batch_size": 1024 * 1024,
        "linger_ms": 5,
        "max_request_size": MAX_FRAME_BYTES,
        "compression_type": None,
        # A broker that forgets its producers on restart refuses an idempotent one for ever. With one request in flight the order
        # is kept all the same; the cost is that a frame whose acknowledgement is lost is sent twice.
        "enable_idempotence": False,
        "max_in_flight_requests_per_connection": 1,
    }
    return _open(settings, kafka.KafkaProducer, **{**options, **overrides})


def make_consumer(settings: KafkaSettings, **overrides: Any) -> kafka.KafkaConsumer:
    """A consumer in the service's group, not yet subscribed, without automatic commits and seeks.

    ``overrides`` are kafka-python options that take precedence over those set here.
    """
    options = {
        "group_id": settings.consumer_group,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "max_poll_records": 64,
        "max_partition_fetch_bytes": 2 * 1024 * 1024,
        "fetch_max_bytes": 16 * 1024 * 1024,
        "fetch_max_wait_ms": 50,
        "session_timeout_ms": settings.session_timeout_ms,
        # A member learns by its heartbeat that the group shares its partitions out anew; those that move wait for it.
        "heartbeat_interval_ms": min(1_000, settings.session_timeout_ms // 3),
        "max_poll_interval_ms": 60_000,
        "check_crcs": True,
        # How soon new partitions of the topic are noticed; the default is five minutes.
        "metadata_max_age_ms": 5_000,
        # What a producer's transaction has taken back is no frame. Messages of an open transaction wait for its end.
        "isolation_level": "read_committed",
    }
    return _open(settings, kafka.KafkaConsumer, **{**options, **overrides})


@contextmanager
def open_admin(settings: KafkaSettings) -> Iterator[kafka.KafkaAdminClient]:
    """An administration client; its Kafka errors, and unreachable advertised addresses, are raised as BrokerUnavailable."""
    admin = _open(settings, kafka.KafkaAdminClient)
    try:
        _check_advertised(admin.describe_cluster())
        yield admin
    except KafkaError as error:
        raise BrokerUnavailable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        admin.close()


def check_kafka_settings(settings: KafkaSettings) -> None:
    """Raise ConfigError if no connection can be tried: an address is invalid, or ``ca_file`` cannot be read."""
    _addresses(settings)
    _tls_context(settings)


def ensure_topics(settings: KafkaSettings, partitions: int = 4) -> None:
    """Create the topics of frames and of dead letters if they are missing; an existing topic is not changed.

    If the broker does not allow it, a warning is logged: the topics may be created by others.
    """
    with open_admin(settings) as admin:
        for topic in {settings.topic, settings.deadletter_topic}.difference(admin.list_topics()):
            limits = _DEADLETTER_RETENTION if topic == settings.deadletter_topic else {}
            _create_topic(admin, topic, partitions, limits)


def ensure_topic(settings: KafkaSettings, topic: str, partitions: int = 4) -> None:
    """Create another topic if it is missing, as :func:`ensure_topics`."""
    with open_admin(settings) as admin:
        if topic not in admin.list_topics():
            _create_topic(admin, topic, partitions, {})


def silence_kafka_log() -> None:
    """Keep kafka-python off the terminal: it logs several errors for every attempt to reconnect. Call once at start."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """The kafka-python options that all clients have in common."""
    return {
        "bootstrap_servers": [str(address) for address in _addresses(settings)],
        "client_id": "oddsight",
        "bootstrap_timeout_ms": 5_000,
        # A broker that comes back after a long outage is found within 2 s; the default is 30 s.
        "reconnect_backoff_max_ms": 2_000,
        "request_timeout_ms": 15_000,
        "security_protocol": settings.security_protocol,
        "ssl_context": _tls_context(settings),
        **_sasl_options(settings),
    }


def _open(settings: KafkaSettings, client_class: Callable[..., Any], **options: Any) -> Any:
    if importlib.util.find_spec("crc32c") is None:
        raise BrokerUnavailable(
            "the package crc32c is not installed, and without it every frame costs kafka-python 11 ms: "
            "pip install 'kafka-python[crc32c]'"
        )
    with logged_connection_errors() as errors:
        _check_addresses(settings)
        try:
            return open_client(client_class, **{**connection_options(settings), **options})
        except KafkaError as error:
            raise BrokerUnavailable(
                f"Kafka at {settings.bootstrap_servers}: the broker answers, but sends no metadata of its cluster "
                f"({errors[-1] if errors else error}). It may require a user name and password: check kafka.security_protocol "
                f"(now {settings.security_protocol}) and the broker's log"
            ) from error


def _check_addresses(settings: KafkaSettings) -> None:
    """One bootstrap server that answers is enough; if none does, the error names the fault of each."""
    tls, login, addresses = _tls_context(settings), _login(settings), _addresses(settings)
    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as pool:
        faults = list(pool.map(lambda address: diagnose_broker(address, tls, login), addresses))
    if None not in faults:
        raise BrokerUnavailable("Kafka at " + "; ".join(fault for fault in faults if fault))


def _addresses(settings: KafkaSettings) -> list[Address]:
    try:
        return [parse_address(part) for part in settings.bootstrap_servers.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"kafka.bootstrap_servers: {error}") from error


def _tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    if not settings.security_protocol.endswith("SSL"):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"kafka.ca_file: {settings.ca_file} is no readable PEM file of certificates ({error})") from error


def _sasl_options(settings: KafkaSettings) -> dict[str, Any]:
    if not settings.security_protocol.startswith("SASL"):
        return {}
    return {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.get_secret_value() if settings.password else None,
    }


def _login(settings: KafkaSettings) -> SaslLogin | None:
    options = _sasl_options(settings)
    if not options:
        return None
    mechanism = get_sasl_mechanism(settings.sasl_mechanism)
    return SaslLogin(settings.sasl_mechanism, options["sasl_plain_username"], lambda: mechanism(**options))


def _check_advertised(cluster: dict[str, Any]) -> None:
    """The bootstrap address may work while the addresses that the broker advertises to its clients do not."""
    faults = [diagnose_connection(Address(broker["host"], broker["port"])) for broker in cluster["brokers"]]
    if faults and all(faults):
        raise BrokerUnavailable(
            f"Kafka answers, but advertises an address that does not work: {faults[0]}; the address comes from the broker's "
            "advertised.listeners"
        )


def _create_topic(admin: kafka.KafkaAdminClient, topic: str, partitions: int, limits: dict[str, str]) -> None:
    configs = {"max.message.bytes": str(MAX_FRAME_BYTES + _BATCH_OVERHEAD_BYTES), **limits}
    try:
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": -1, "configs": configs}})
        log.info("topic_created", topic=topic, partitions=partitions)
    except TopicAlreadyExistsError:
        pass  # another process was faster
    except AuthorizationError as error:
        log.warning("topic_not_created", topic=topic, reason=f"not allowed ({error}); an administrator must create it")
