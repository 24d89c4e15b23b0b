"""A member of a consumer group must finish what it began: kafka-python may lose the answer to a JoinGroup.

A join that takes longer than one poll goes on in the background. kafka-python 3.0 then loses its answer in two ways, both mended
here. It asks only whether there is a *reason* to join: a leader who joined again because it learned of a topic's partitions, as
it does right after every start, finds that the reason is gone and never looks at the answer; the member stays in the group
without partitions, with which nobody else works either. (Kafka's own client asks whether a join is needed *or pending*,
``rejoinNeededOrPending``.) And an answer that came between two polls is taken for none: the member joins anew, round after round
until one ends within a poll. (Kafka's own client keeps the join's future until a poll has used it.)
"""

from kafka import KafkaConsumer


def finish_joining(consumer: KafkaConsumer) -> None:
    """Make a consumer go on joining its group until it has its partitions. Call once, before it subscribes."""
    coordinator = consumer._coordinator
    needed, join = coordinator.need_rejoin, coordinator.join_group_async

    def needed_or_pending() -> bool:
        return bool(needed() or coordinator.rejoining)

    async def join_or_take_the_answer(timeout_ms: float | None = None) -> bool:
        answered = coordinator._join_task
        if answered is not None and answered.is_done:

            async def answer() -> object:
                return await answered

            # It waits for whatever is under way; a task that only repeats the answer is.
            coordinator._join_task = coordinator._manager.call_soon(answer)
        return bool(await join(timeout_ms=timeout_ms))

    coordinator.need_rejoin = needed_or_pending
    coordinator.join_group_async = join_or_take_the_answer
