"""What is fuzzed: a parser, valid inputs of it, and the errors by which it may refuse an input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from tests.fuzz.mutation import TOKENS, mutate, mutate_json


class Outcome(NamedTuple):
    """What became of one input."""

    kind: str
    """``accepted``, ``rejected`` or ``crashed``."""
    reason: str = ""
    """Of a rejection or a crash."""


class Layout(NamedTuple):
    """How a valid input holds JSON and other content."""

    split: Callable[[bytes], tuple[bytes, bytes]]
    """A valid input as JSON and the rest."""
    join: Callable[[bytes, bytes], bytes]
    """The input that holds this JSON and this rest, either of which may be damaged."""


PLAIN_JSON = Layout(lambda content: (content, b""), lambda json, _: json)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser of foreign bytes."""

    name: str
    parse: Callable[[bytes], object]
    """Reads an input and uses what it read as the product does."""
    errors: tuple[type[Exception], ...]
    """By these, and no others, it refuses an input."""
    valid: Sequence[bytes]
    tokens: Sequence[bytes] = TOKENS
    repair: Callable[[bytes], bytes] | None = None
    """Makes checksums and lengths fit again; done to half of the inputs, which would not get past these otherwise."""
    layout: Layout | None = None
    """Where JSON lies in an input, if any does: in half of the inputs only its values change."""
    share: float = 1.0
    """Of the inputs, compared with other targets; less for slow ones."""

    def input(self, seed: int, number: int) -> bytes:
        """The input of this number: the same for the same seed, whichever came before it."""
        random = Random(f"{seed}/{self.name}/{number}")
        if self.layout is not None and random.random() < 0.7:
            return self._inner_input(self.layout, random)
        content = mutate(self.valid, self.tokens, random)
        return self.repair(content) if self.repair and random.random() < 0.5 else content

    def _inner_input(self, layout: Layout, random: Random) -> bytes:
        """An input whose layout is whole: of its two parts one is damaged, mostly so that it is still JSON."""
        content, rest = layout.split(random.choice(self.valid))
        match random.choice(["values", "values", "values", "text", "rest"]):
            case "values":
                content = mutate_json([content], random)
            case "text":
                content = mutate([content], self.tokens, random)
            case _:
                rest = mutate([rest], self.tokens, random)
        return layout.join(content, rest)

    def examine(self, content: bytes) -> Outcome:
        """Parse one input."""
        try:
            self.parse(content)
        except self.errors as error:
            return Outcome("rejected", getattr(error, "reason", None) or type(error).__name__)
        except Exception as error:  # noqa: BLE001  to find errors of any other kind is what this is for
            return Outcome("crashed", f"{type(error).__name__}: {str(error)[:200]}")
        return Outcome("accepted")
