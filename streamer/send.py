"""``oddsight-stream ingest``: connect, send one plan's frames, say what became of them."""

import threading

from streamer.config import KafkaSettings
from streamer.ingest import IngestPlan, ingest
from streamer.kafka_link import ensure_topics, make_producer, quiet_library_log


def send_frames(settings: KafkaSettings, plan: IngestPlan, stop: threading.Event) -> str:
    """Send until the sources end or ``stop`` is set; gives the closing line.

    Raises:
        BrokerUnavailable, SourceUnavailable: says what to check.
    """
    quiet_library_log()
    ensure_topics(settings)
    producer = make_producer(settings)
    try:
        result = ingest(plan, producer, settings.topic, stop)
    finally:
        producer.close()
    delivery = result.delivery
    return f"{delivery.sent} frames sent, {delivery.failed} failed, {delivery.dropped} dropped, {result.reconnects} reconnects"
