"""The Lua script that writes a step, and its arguments.

One hash for each partition and consumer group holds the next offset and each camera's state. A step is one call of the script: it
appends scores, minutes of scores and events, replaces the states of its cameras and advances the next offset, but only if the
stored next offset is the one the step starts from. Otherwise nothing is written and the caller is fenced. That covers a consumer
that was suspended and wakes up, two consumers that both believe they own a partition, and a Redis restored from an older
snapshot; the remedy is always to read the progress again and go on from it. After a lost reply the same step is simply sent
again: the hash knows the id of the step that was written last, and the script does nothing if it is this one. That holds also if
the first copy still waits in a Redis that hangs.

Redis does not undo what a script has written when one of its commands fails. So whatever can fail is checked before the first
write: what lies under the keys, and the user's rights to them (Redis 7 and later; an earlier one has no function for it, and
:meth:`streamer.redis.client.RedisProgressStore.try_step` finds out at the start). Memory, a read-only server and missing replicas
are checked by Redis itself at the first write of a script, and not again. That must be a command that needs memory, because
Redis lets a script whose first write frees some go on without any limit. The next offset is written last.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from streamer.interfaces import Fields, Step

# KEYS: progress hash, streams of events, of health and of heat maps, then streams of one camera each: of scores and of minutes.
# ARGV: step_id, expected next offset ('' for none), next offset, seconds until a stream of one camera expires; number of fields
# to delete from the hash, these; number of entries, then for each the index of its key, how many entries are kept there, number
# of strings, the strings; then pairs of the hash.
# Answers: the outcome; the stored next offset if fenced, else the key, and what was found and needed.
STEP = """
local needed = {hash = {{'HSET', '', ''}, {'HDEL', ''}}, stream = {{'XADD', '*', '', ''}, {'EXPIRE', '1'}}}
for index, key in ipairs(KEYS) do
  local kind, found = index == 1 and 'hash' or 'stream', redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then return {'type', key, found, kind} end
  for _, command in ipairs(redis.acl_check_cmd and needed[kind] or {}) do
    if not redis.acl_check_cmd(command[1], key, unpack(command, 2)) then return {'right', key, command[1]} end
  end
end
if redis.call('HGET', KEYS[1], 'step_id') == ARGV[1] then return {'applied'} end
local stored = redis.call('HGET', KEYS[1], 'next_offset') or ''
if stored ~= ARGV[2] then return {'fenced', stored} end
local entries = 6 + tonumber(ARGV[5])
local at = entries + 1
for _ = 1, tonumber(ARGV[entries]) do
  local key, kept, count = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2])
  redis.call('XADD', key, 'MAXLEN', '~', kept, '*', unpack(ARGV, at + 3, at + 2 + count))
  at = at + 3 + count
end
for field = at, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[field], ARGV[field + 1]) end
for index = 5, #KEYS do redis.call('EXPIRE', KEYS[index], ARGV[4]) end
for field = 6, entries - 1 do redis.call('HDEL', KEYS[1], ARGV[field]) end
redis.call('HSET', KEYS[1], 'step_id', ARGV[1], 'next_offset', ARGV[3])
return {'applied'}
"""


class Entry(NamedTuple):
    """An entry of a stream, and to how many entries about the stream is trimmed."""

    key: str
    most: int
    fields: Fields


def step_arguments(
    step: Step, expire_s: int, deleted: Sequence[str], entries: Sequence[Entry], keys: Sequence[str], pairs: Fields
) -> list[Any]:
    """ARGV of :data:`STEP` with these KEYS."""
    index = {key: number for number, key in enumerate(keys, start=1)}
    arguments: list[Any] = [
        step.step_id,
        "" if step.expected is None else step.expected,
        step.next_offset,
        expire_s,
        len(deleted),
        *deleted,
        len(entries),
    ]
    for key, most, fields in entries:
        arguments += [index[key], most, 2 * len(fields), *_flat(fields)]
    return arguments + _flat(pairs)


def _flat(fields: Fields) -> list[str]:
    return [text for pair in fields.items() for text in pair]
