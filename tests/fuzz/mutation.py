"""Inputs for the fuzzer: valid ones, damaged in the ways that break parsers. The same seed gives the same inputs, everywhere."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MAX_INPUT_BYTES = 1 << 20
_MOST_CHANGES = 6

_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 2**63 - 1, 2**63, 2**64 - 1]
TOKENS = (
    *(token.encode() for token in ("0", "-1", "1e400", "NaN", "Infinity", "true", "null", "{}", "[]", '""', ",", ":", "=", "\n")),
    *(b"9" * count for count in (16, 20, 400, 5000)),
    *(bracket * count for bracket in (b"[", b"(", b'{"a":', b"[[a]]\n") for count in (30, 1500, 100_000)),
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    "\u202e٣".encode(),  # a mark that turns text around, and a digit that is not ASCII
    b"-" * 300,
)
"""What has broken parsers of text: numbers without end, nesting without end, halves of characters."""

_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308),
    *(float("inf"), float("-inf"), float("nan"), "", "a", "a" * 5000, "\0", "\ud800", "9" * 5000, "NaN", "../x", "-1"),
    *([], {}, [[]], {"": {}}, [0] * 1000, "2026-01-01T00:00:00Z", "٣", "1_000", " 1 ", "1e999"),
]


def mutate(valid: Sequence[bytes], tokens: Sequence[bytes], random: Random) -> bytes:
    """One of the valid inputs after one to six changes; now and then it stays as it is."""
    content = bytearray(random.choice(valid))
    for _ in range(random.randrange(_MOST_CHANGES + 1)):
        random.choice(_CHANGES)(content, valid, tokens, random)
    return bytes(content[:MAX_INPUT_BYTES])


def mutate_json(valid: Sequence[bytes], random: Random) -> bytes:
    """As :func:`mutate`, but what comes out is still JSON: its values are replaced, dropped, doubled or moved."""
    tree = json.loads(random.choice(valid))
    for _ in range(random.randint(1, 3)):
        tree = _changed_tree(tree, random)
    return json.dumps(tree).encode()


def _changed_tree(tree: Any, random: Random) -> Any:
    """The tree with one place changed, reached by a walk that may end at any depth. JSON within a text is walked, too."""
    if isinstance(tree, str) and tree.startswith("{") and random.random() < 0.9:
        return json.dumps(_changed_tree(json.loads(tree), random))
    if not isinstance(tree, dict | list) or not tree or random.random() < 0.15:
        return random.choice(_VALUES)
    key = random.choice(list(tree)) if isinstance(tree, dict) else random.randrange(len(tree))
    copy: Any = dict(tree) if isinstance(tree, dict) else list(tree)
    match random.randrange(8):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[random.choice(["", "a", "\ud800", "format", "x" * 300])] = random.choice([copy[key], random.choice(_VALUES)])
        case 1:
            copy += copy[:100]
        case 2:
            copy[key] = [copy[key]]
        case _:
            copy[key] = _changed_tree(copy[key], random)
    return copy


_Change = Callable[[bytearray, Sequence[bytes], Sequence[bytes], Random], None]


def _flip(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def _set(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    if content:
        content[random.randrange(len(content))] = random.randrange(256)


def _number(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    size, order = random.choice([1, 2, 4, 8]), random.choice(["big", "little"])
    at = random.randrange(len(content) + 1)
    number = random.choice(_NUMBERS) % (1 << 8 * size)
    content[at : at + size] = number.to_bytes(size, "big" if order == "big" else "little")


def _insert_token(content: bytearray, _valid: Sequence[bytes], tokens: Sequence[bytes], random: Random) -> None:
    at = random.randrange(len(content) + 1)
    content[at : at + random.choice([0, 0, 1, 4])] = random.choice(tokens)


def _cut(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    first, last = _stretch(content, random)
    del content[first:last]


def _end(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    del content[random.randrange(len(content) + 1) :]


def _copy(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    first, last = _stretch(content, random)
    at = random.randrange(len(content) + 1)
    content[at:at] = content[first:last] * random.choice([1, 1, 2, 16])


def _splice(content: bytearray, valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    other = random.choice(valid)
    content[random.randrange(len(content) + 1) :] = other[random.randrange(len(other) + 1) :]


def _noise(content: bytearray, _valid: Sequence[bytes], _tokens: Sequence[bytes], random: Random) -> None:
    at = random.randrange(len(content) + 1)
    content[at : at + random.randrange(9)] = random.randbytes(random.randint(1, 8))


def _stretch(content: bytearray, random: Random) -> tuple[int, int]:
    first = random.randrange(len(content) + 1)
    return first, min(len(content), first + random.choice([1, 4, 16, 64, 256]))


_CHANGES: list[_Change] = [_flip, _flip, _set, _number, _insert_token, _cut, _end, _copy, _splice, _noise]
