"""``oddsight-stream notify``: tells people of events and of problems with cameras.

A process of its own beside the service. Each receiver has a thread, so that the outage of one holds up no other, and a lease in
Redis, so that several processes share the receivers.
"""

import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from deploy.errors import ConfigError
from streamer.config import HttpSettings, Settings
from streamer.evidence.store import open_files
from streamer.http_server import serve_http
from streamer.interfaces import RedisUnavailable
from streamer.monitoring import Health, NotifyMetrics
from streamer.notify.messages import trial_message
from streamer.notify.notices import ReceiverSettings
from streamer.notify.senders.kafka import Topic
from streamer.notify.senders.mail import Mail
from streamer.notify.senders.mqtt import Mqtt
from streamer.notify.senders.sender import Sender
from streamer.notify.senders.webhook import Webhook
from streamer.notify.worker import Backoff, ReceiverWorker
from streamer.receivers import EmailSettings, KafkaTopicSettings, WebhookSettings
from streamer.redis.client import check_redis, make_redis
from streamer.redis.lease import Lease
from streamer.redis.notices import RedisNotices

log = structlog.get_logger("oddsight.notify")

_BACKOFF: Final = Backoff(first_s=1.0, most_s=300.0)
_RENEW_EVERY_S: Final = 2.0
_RETRY_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.5


def run_notify(settings: Settings, stop: threading.Event, *, backoff: Backoff = _BACKOFF) -> None:
    """Tell all receivers until ``stop`` is set; what is being sent then is finished.

    Raises:
        ConfigError: there are no receivers, or the settings of one are wrong.
        RedisUnavailable: at start.
    """
    receivers = settings.notify.receivers
    if not receivers:
        raise ConfigError("notify.receivers is empty: name who is to be told, [notify.receivers.NAME]")
    metrics, health = NotifyMetrics(), Health()
    health.problem = None
    with ExitStack() as stack:
        made = {name: make_sender(name, receiver, settings) for name, receiver in receivers.items()}
        senders = {name: stack.enter_context(closing(sender)) for name, sender in made.items()}
        client = stack.enter_context(make_redis(settings.redis))
        check_redis(client)
        sources = {name: RedisNotices(client, settings.redis, name) for name in receivers}
        leases = {name: source.lease() for name, source in sources.items()}
        make = partial(ReceiverWorker, settings=settings.notify, metrics=metrics, backoff=backoff, idle=stop.wait)
        workers = {name: make(name, source=source, sender=senders[name], lease=leases[name]) for name, source in sources.items()}
        if settings.notify.port is not None:
            http = HttpSettings(host=settings.notify.host, port=settings.notify.port)
            log.info("serving metrics", port=stack.enter_context(serve_http(http, metrics, health, section="notify")))
        log.info("telling", receivers={name: sender.place for name, sender in senders.items()})
        _work(workers, leases, health, stop)


def make_sender(name: str, receiver: ReceiverSettings, settings: Settings) -> Sender:
    """What sends messages to a receiver. Raises ConfigError."""
    if isinstance(receiver, WebhookSettings):
        return Webhook(name, receiver)
    if isinstance(receiver, EmailSettings):
        return Mail(name, receiver, open_files(settings.evidence, timeout_s=receiver.timeout_s, retries=0))
    return Topic(name, receiver, settings.kafka) if isinstance(receiver, KafkaTopicSettings) else Mqtt(name, receiver)


def send_trial(settings: Settings, name: str) -> str:
    """Send one receiver a message that says it is a test; where to.

    Raises:
        ConfigError: there is no such receiver, or its settings are wrong.
        DeliveryFailed, MessageRefused: it did not arrive.
    """
    receiver = settings.notify.receivers.get(name)
    if receiver is None:
        known = ", ".join(settings.notify.receivers) or "none"
        raise ConfigError(f"notify.receivers.{name}: no such receiver; there are: {known}")
    with closing(make_sender(name, receiver, settings)) as sender:
        sender.send(trial_message(name, datetime.now(settings.notify.zone)))
        return sender.place


def _work(workers: Mapping[str, ReceiverWorker], leases: Mapping[str, Lease], health: Health, stop: threading.Event) -> None:
    """Run a thread for each receiver until ``stop`` is set, or one of them fails, which no outage makes it do."""
    with _kept(leases.values()), ThreadPoolExecutor(len(workers), thread_name_prefix="notify") as pool:
        threads = [pool.submit(_tell, worker, leases[name], stop) for name, worker in workers.items()]
        while not stop.is_set():
            health.beat()
            problems = [f"{name}: {worker.problem}" for name, worker in workers.items() if worker.problem is not None]
            health.problem = "; ".join(problems) or None
            if wait(threads, _LOOK_AGAIN_S, FIRST_COMPLETED).done:
                stop.set()
    for thread in threads:
        thread.result()


def _tell(worker: ReceiverWorker, lease: Lease, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            if lease.is_held:
                worker.step()
            else:
                worker.rest()
                stop.wait(_LOOK_AGAIN_S)
        except RedisUnavailable as error:
            log.warning("waiting before the next attempt", error=str(error), retry_in_s=_RETRY_S)
            stop.wait(_RETRY_S)


@contextmanager
def _kept(leases: Collection[Lease]) -> Iterator[None]:
    """Renew leases on a thread until the block ends, then let go of them."""
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(leases, ended), name="leases")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for lease in leases:
            with suppress(RedisUnavailable):
                lease.release()


def _renew(leases: Collection[Lease], ended: threading.Event) -> None:
    while True:
        for lease in leases:
            try:
                lease.renew()
            except RedisUnavailable as error:
                log.warning("Redis does not say whose turn it is to tell a receiver", error=str(error))
        if ended.wait(_RENEW_EVERY_S):
            return
