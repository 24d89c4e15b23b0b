"""Decoded frames on disk: footage is decoded once a run, also when the run is interrupted, and needs not fit into memory.

Two files a clip, named after what they were made from: raw frames, memory-mapped when used, and a JSON that is written last.
A clip whose files changed, or another clip spec, has another name.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.frames import Frame
from deploy.spec import ClipSpec
from trainer.footage import Footage, Source, decoded_frames


@dataclass(frozen=True, slots=True)
class FrameCache:
    """A folder of decoded clips."""

    folder: Path
    tick: Callable[[], None] = lambda: None
    """Told of every frame that is decoded."""

    def load(self, source: Source, spec: ClipSpec) -> Footage:
        """The clip's frames, decoded unless that was done before; read-only."""
        name = _name(source, spec)
        frames, card = self.folder / f"{name}.raw", self.folder / f"{name}.json"
        if not card.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            content = _decode_into(frames, self._ticked(decoded_frames(source, spec)))
            card.with_suffix(".new").write_text(json.dumps(content))
            card.with_suffix(".new").replace(card)
        return _footage(source.name, frames, json.loads(card.read_text()), spec)

    def _ticked(self, outcomes: Iterable[Frame | str]) -> Iterator[Frame | str]:
        for outcome in outcomes:
            self.tick()
            yield outcome


def _decode_into(path: Path, outcomes: Iterable[Frame | str]) -> dict[str, Any]:
    """Write every readable frame; where they were in the source, and what could not be read."""
    index: list[int] = []
    problems: list[str] = []
    place = -1
    with path.open("wb") as file:
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                index.append(place)
                file.write(outcome.tobytes())
    return {"index": index, "total": place + 1, "problems": problems}


def _footage(name: str, path: Path, content: dict[str, Any], spec: ClipSpec) -> Footage:
    index = np.asarray(content["index"], np.int64)
    return Footage(name, _mapped(path, (len(index), *spec.frame_shape)), index, content["total"], tuple(content["problems"]))


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    # An empty file cannot be mapped.
    return np.memmap(path, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)


def _name(source: Source, spec: ClipSpec) -> str:
    files = [source.path] if source.is_video else sorted(source.path.iterdir())
    marks = [(str(file.resolve()), *_stamp(file)) for file in files]
    return hashlib.sha256(json.dumps([spec.model_dump(), marks]).encode()).hexdigest()[:24]


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
