"""anomalib's inferencers beside our engines: loaded once, in a process of another environment, and measured a round at a time.

anomalib wants versions of its own of what we use, so it is never imported here; :mod:`tests.bench.anomalib_process` is what runs there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from deploy.benchmark.roofline import Calls
from deploy.errors import ConfigError, EngineFailed, EngineUnavailable

_SIDE = Path(__file__).with_name("anomalib_side.py")
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Against:
    """One inferencer of another library, of the calls of all rounds. A call is one image: it takes no more."""

    name: str
    version: str
    inferencer: str
    precision: str
    """What it computes in, as it says itself."""
    size_px: Sequence[int]
    """Height, width."""
    parameters_millions: float
    """Of what computes the score."""
    weights: str
    images_per_s: float
    """From the median call."""
    cpu_s_per_image: float
    latency_ms: Mapping[str, float]
    """Of a call: p50, p95, p99."""


@dataclass(slots=True)
class Inferencer:
    """One inferencer at one size in the other process, and the calls measured so far."""

    child: "Child"
    key: str
    """Inferencer and size, such as ``openvino 64x64``."""
    about: Mapping[str, Any]
    calls: Calls = field(default_factory=Calls)

    def measure(self, round_s: float) -> None:
        """One round.

        Raises:
            EngineFailed: the other process failed or ended.
        """
        answer = self.child.ask(f"measure {self.key} {round_s}")
        self.calls.add(answer["calls_s"], answer["cpu_s"])

    def result(self) -> Against:
        """The figures of all rounds."""
        return Against(
            **self.about,
            images_per_s=1 / self.calls.median_s,
            cpu_s_per_image=self.calls.cpu_s_per_call,
            latency_ms=self.calls.latency_ms,
        )


class Child:
    """The other process: a line in, a line of JSON out."""

    def __init__(self, python: Path, script: Path, arguments: Sequence[str]) -> None:
        """Start it; its files, and what it says besides its answers, go to the folder of ``script``.

        Raises:
            ConfigError: ``python`` cannot be started.
        """
        self._python, self._said = python, script.with_suffix(".log")
        folder = str(script.parent)
        with self._said.open("wb") as said:
            try:
                self._process = subprocess.Popen(
                    [str(python), str(script), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    encoding="utf-8",
                    errors="replace",
                    env={**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder},
                    start_new_session=True,  # Ctrl-C at the terminal is for us: we end it
                )
            except OSError as error:
                raise ConfigError(
                    f"--anomalib must be the Python of an environment with anomalib, such as anomalib-env/bin/python, "
                    f"got {str(python)!r}: {error.strerror}"
                ) from error
        self._requests, self._answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)

    def ask(self, request: str) -> dict[str, Any]:
        """Its answer.

        Raises:
            EngineFailed: it failed or ended.
        """
        with suppress(BrokenPipeError):  # it has ended: what is missing is the answer
            self._requests.write(request + "\n")
            self._requests.flush()
        return self.answer(request)

    def answer(self, doing: str) -> dict[str, Any]:
        """The next line that it says.

        Raises:
            EngineUnavailable: what it needs is not installed in its environment.
            EngineFailed: it failed or ended.
        """
        line = self._answers.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise EngineFailed(f"anomalib failed at {doing!r}: {self._python} {self._end(line)}") from None
        if not isinstance(answer, dict):
            raise EngineFailed(f"anomalib failed at {doing!r}: {self._python} answered {line.strip()!r}; is it a Python?")
        if answer.get("not_installed"):
            raise EngineUnavailable(
                f"anomalib cannot be measured with {self._python}: {answer['error']}; install it there: "
                f"{self._python} -m pip install 'anomalib[openvino]'"
            )
        if "error" in answer:
            raise EngineFailed(f"anomalib failed at {doing!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End it, whatever it is doing."""
        with suppress(BrokenPipeError), self._process:
            self._process.kill()

    def _end(self, line: str) -> str:
        """What became of it, given the last line that it said."""
        if line:
            return f"answered {line.strip()!r}; is it a Python?"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        said = self._said.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((text.strip() for text in reversed(said) if text.strip()), "nothing")
        return f"ended with exit code {self._process.returncode}; the last that it said: {last}"


@contextmanager
def anomalib_inferencers(python: Path, sizes_px: Sequence[int], threads: int) -> Iterator[list[Inferencer]]:
    """GANomaly as anomalib has it, untrained, by both of its inferencers at each size (square), loaded and warm.

    ``python`` is that of an environment with ``anomalib[openvino]``. ``threads``: CPU threads of a call; 0: their own choice.
    Afterwards the process is gone, and its files with it: gigabytes at 256 x 256.

    Raises:
        ConfigError: ``python`` cannot be started.
        EngineUnavailable: it has no anomalib.
        EngineFailed: anomalib failed.
    """
    with TemporaryDirectory(prefix="oddsight-anomalib-") as folder:
        # A script's own folder comes first where Python looks for modules; ours has names that libraries have, too.
        script = Path(shutil.copy(_SIDE, folder))
        with closing(Child(python, script, [str(threads), *map(str, sizes_px)])) as child:
            inferencers = child.answer("loading")["inferencers"]
            yield [Inferencer(child, key, about) for key, about in inferencers.items()]
