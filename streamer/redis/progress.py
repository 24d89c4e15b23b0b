"""The store of progress: each partition's next offset, states, scores and events, written in one atomic step."""

from typing import Any, cast

import redis

from streamer.config import RedisSettings
from streamer.errors import Fenced
from streamer.interfaces import CameraState, Fields, Progress, Step
from streamer.redis.client import redis_errors
from streamer.types import Partition

# One hash for each partition and consumer group holds the next offset and each camera's state. A step is one call of this
# script: it advances the next offset, replaces the states of its cameras and appends scores and events, but only if the stored
# next offset is the one the step starts from. Otherwise nothing is written and the caller is fenced. That covers a consumer that
# was suspended and wakes up, two consumers that both believe they own a partition, a lost reply, and a Redis restored from an
# older snapshot; the remedy is always to read the progress again and go on from it.
#
# KEYS: progress hash, stream of events, then the stream of scores of each camera that has scores in the step.
# ARGV: expected next offset ('' for none), number of hash pairs, the pairs, max events, max scores, number of entries, then for
# each entry: index of its key, number of strings, the strings.
_STEP = """
local stored = redis.call('HGET', KEYS[1], 'next_offset') or ''
if stored ~= ARGV[1] then return {0, stored} end
local at = 3
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
local max_events, max_scores, entries = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
at = at + 3
for _ = 1, entries do
  local key, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local kept = key == 2 and max_events or max_scores
  redis.call('XADD', KEYS[key], 'MAXLEN', '~', kept, '*', unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end
return {1, ARGV[4]}
"""


class RedisProgressStore:
    """:class:`~streamer.interfaces.ProgressStore` in Redis."""

    def __init__(self, client: redis.Redis, settings: RedisSettings, consumer_group: str) -> None:
        self._client, self._settings, self._consumer_group = client, settings, consumer_group
        self._step = client.register_script(_STEP)

    def _progress_key(self, topic: str, partition: int | str) -> str:
        return f"{self._settings.prefix}:progress:{self._consumer_group}:{topic}:{partition}"

    def read(self, partition: Partition) -> Progress:
        return self._read_key(self._progress_key(*partition))

    def camera_states(self, topic: str) -> dict[str, CameraState]:
        """The stored states of the cameras of all partitions of a topic."""
        with redis_errors():
            keys = list(self._client.scan_iter(match=self._progress_key(topic, "*"), _type="HASH"))
        return {camera_id: state for key in keys for camera_id, state in self._read_key(key).cameras.items()}

    def _read_key(self, key: str) -> Progress:
        with redis_errors():
            stored = cast("dict[str, str]", self._client.hgetall(key))
        next_offset = stored.pop("next_offset", None)
        cameras = {name.removeprefix("camera:"): CameraState.model_validate_json(state) for name, state in stored.items()}
        return Progress(None if next_offset is None else int(next_offset), cameras)

    def apply(self, step: Step) -> None:
        keys, arguments = self._script_call(step)
        with redis_errors():
            applied, stored = cast("tuple[int, str]", self._step(keys=keys, args=arguments))
        if not applied:
            raise Fenced(f"{step.partition}: stored progress is {stored or 'empty'}, expected {step.expected}")

    def _script_call(self, step: Step) -> tuple[list[str], list[Any]]:
        cameras = list(dict.fromkeys(camera_id for camera_id, _ in step.scores))
        keys = [self._progress_key(*step.partition), self._settings.events_key, *map(self._settings.scores_key, cameras)]
        pairs = {"next_offset": str(step.next_offset)}
        pairs |= {f"camera:{camera_id}": state.model_dump_json() for camera_id, state in step.cameras.items()}
        key_index = {camera_id: index for index, camera_id in enumerate(cameras, start=3)}
        entries = [(key_index[camera_id], fields) for camera_id, fields in step.scores]
        entries += [(2, fields) for fields in step.events]
        arguments: list[Any] = ["" if step.expected is None else step.expected, len(pairs), *_flat(pairs)]
        arguments += [self._settings.max_events, self._settings.max_scores, len(entries)]
        for index, fields in entries:
            arguments += [index, 2 * len(fields), *_flat(fields)]
        return keys, arguments


def _flat(fields: Fields) -> list[str]:
    return [text for pair in fields.items() for text in pair]
