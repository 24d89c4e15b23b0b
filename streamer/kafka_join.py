"""A member of a consumer group must finish what it began: kafka-python may lose the answer to a JoinGroup.

A group's leader joins again when it learns of a topic's partitions, as it does right after every start. If that takes longer
than one poll, kafka-python 3.0 lets it go on in the background, but then asks only whether there is a *reason* to join, finds
that the reason is gone, and never looks at the answer: the member stays in the group without partitions, with which nobody else
works either. Kafka's own client asks whether a join is needed *or pending* (``rejoinNeededOrPending``); so does this.
"""

from kafka import KafkaConsumer


def finish_joining(consumer: KafkaConsumer) -> None:
    """Make a consumer go on joining its group until it has its partitions. Call once, before it subscribes."""
    coordinator = consumer._coordinator
    needed = coordinator.need_rejoin

    def needed_or_pending() -> bool:
        return bool(needed() or coordinator.rejoining)

    coordinator.need_rejoin = needed_or_pending
