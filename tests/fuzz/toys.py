"""Targets that do what no parser may do, to test the fuzzer itself."""

import os
import time

from tests.fuzz.target import Target


def _toy(content: bytes) -> None:
    match content[:1]:
        case b"r":
            raise ValueError("not wanted")
        case b"c":
            raise KeyError("forgotten")
        case b"m":
            bytearray(1 << 40)
        case b"e":
            os._exit(7)
        case b"h":
            time.sleep(60)


class Numbered(Target):
    """A target whose inputs are given."""

    def input(self, seed: int, number: int) -> bytes:
        return self.valid[0][number : number + 1]


def misbehaving() -> Target:
    """Of 40 inputs one is rejected, and four crash it each in another way."""
    inputs = bytearray(b"." * 40)
    for number, kind in {3: b"r", 5: b"c", 11: b"m", 17: b"e", 23: b"h"}.items():
        inputs[number : number + 1] = kind
    return Numbered("toy", _toy, (ValueError,), [bytes(inputs)])
