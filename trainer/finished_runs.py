"""The file of finished runs: one JSON object a line, added as a run ends, so that a benchmark goes on where it stopped."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from trainer.errors import BadRunFile

_HEAD = '{"run":'  # every line begins with it, also one that a kill cut short


class Finished(BaseModel, frozen=True, extra="forbid"):
    """A finished run."""

    run: dict[str, Any]
    """What identifies it: data set, model, case, seed and settings, the model's whole configuration included."""
    auc: dict[str, float]
    """Area under the ROC curve of the test part by score, 0 to 1; the model's own score comes first."""
    normals: int
    """Samples learned from as normal."""
    anomalies: int
    """Samples learned from as labelled anomalies."""
    test_normals: int
    test_anomalies: int
    wall_s: float
    """Training and test."""
    cpu_s: float

    @property
    def ratio(self) -> float:
        """Labelled anomalies among all samples learned from: what was asked for, or less where there are not so many."""
        return self.anomalies / (self.normals + self.anomalies)


class RunFile:
    """Finished runs on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _readable(path):
            self._file = path.open("a+", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self) -> list[Finished]:
        """The runs finished so far. A line cut short by a kill is passed over.

        Raises:
            BadRunFile: the file holds something else, or cannot be read.
        """
        with _readable(self._path):
            self._file.seek(0)
            lines = self._file.read().split("\n")
        found = [_parsed(self._path, number, line) for number, line in enumerate(lines, 1) if line]
        if lines[-1]:  # so that the next line does not become part of the torn one
            self._file.write("\n")
        return [finished for finished in found if finished is not None]

    def add(self, finished: Finished) -> None:
        """Write a run down, at once."""
        self._file.write(json.dumps(finished.model_dump()) + "\n")
        self._file.flush()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise BadRunFile(f"{path}: {error}; --out must be a file for finished runs that can be written") from error


def _parsed(path: Path, number: int, line: str) -> Finished | None:
    try:
        return Finished.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        if line.startswith(_HEAD) or _HEAD.startswith(line):
            return None
        wrong: Exception = error
    except (ValidationError, RecursionError) as error:
        wrong = error
    raise BadRunFile(f"{path}, line {number} is no finished run; give --out another file, nothing was changed") from wrong
