"""anomalib's GANomaly with untrained weights, measured on request. Run by :mod:`tests.bench.anomalib_comparison` in an environment of its own.

    anomalib_side.py THREADS SIZE_PX ...        THREADS 0: the inferencers' own choice

Imports nothing of ours. The first line out says what there is to measure, every further one answers a line in:

    in   measure openvino 64x64 0.6             out  {"calls_s": [0.004, ...], "cpu_s": 0.6}

``{"error": TEXT, "not_installed": BOOL}`` in place of an answer is the last one. Ends, and takes its files along, when its
standard input does: so it never outlives the process that started it.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

_WARM_UP_CALLS = 2
_LEAST_CALLS = 3


@dataclass(frozen=True)
class Loaded:
    """An inferencer, ready and warm."""

    about: dict[str, Any]
    """Inferencer, version, size and more, as the benchmark shows it."""
    predict: Callable[[], object]
    """One call: a picture in, a score out."""

    @property
    def key(self) -> str:
        """What a request calls it."""
        height_px, width_px = self.about["size_px"]
        return f"{self.about['inferencer']} {width_px}x{height_px}"


def main() -> None:
    """Load once, then answer."""
    answers, requests, folder = _claim_stdout(), SimpleQueue[str](), Path(tempfile.mkdtemp())
    os.chdir(folder)  # anomalib leaves gigabytes of cache where it runs
    # OpenVINO would report each export to its makers, by processes that outlive this one. Without the package it reports nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to say that there is no such module
    Thread(target=_read_requests, args=(requests, folder), daemon=True).start()
    try:
        threads, *sizes_px = map(int, sys.argv[1:])
        loaded = {inferencer.key: inferencer for size_px in sizes_px for inferencer in load(size_px, threads, folder)}
        _tell(answers, {"inferencers": {key: inferencer.about for key, inferencer in loaded.items()}})
        while True:
            _tell(answers, _answer(requests.get(), loaded))
    except Exception as error:  # noqa: BLE001  whatever a foreign library raises is told in one line
        reason = next(iter(str(error).splitlines()), "")
        _tell(answers, {"error": f"{type(error).__name__}: {reason}", "not_installed": isinstance(error, ImportError)})


def load(size_px: int, threads: int, folder: Path) -> Iterator[Loaded]:
    """Both inferencers of its GANomaly for pictures of one size; exports go to ``folder``."""
    import anomalib
    import numpy as np
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer
    from anomalib.models import Ganomaly

    sides_px = (size_px, size_px)
    model = Ganomaly(pre_processor=Ganomaly.configure_pre_processor(sides_px))
    common = {
        "name": "anomalib ganomaly",
        "version": anomalib.__version__,
        "size_px": sides_px,
        # Only the generator computes the score.
        "parameters_millions": sum(weights.numel() for weights in model.model.generator.parameters()) / 1e6,
        "weights": "untrained",
    }
    openvino_path = model.to_openvino(folder / str(size_px), input_size=sides_px)
    torch_path = model.to_torch(folder / str(size_px))
    picture = np.random.default_rng(0).integers(0, 256, (*sides_px, 3), dtype=np.uint8)

    by_openvino = OpenVINOInferencer(openvino_path, device="CPU", config={"INFERENCE_NUM_THREADS": threads} if threads else None)
    precision = by_openvino.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    yield _warm({**common, "inferencer": "openvino", "precision": precision}, lambda: by_openvino.predict(picture))

    if threads:
        import torch

        torch.set_num_threads(threads)
    os.environ["TRUST_REMOTE_CODE"] = "1"  # it reads a pickle: the one written above
    by_torch = TorchInferencer(torch_path, device="cpu")
    yield _warm({**common, "inferencer": "torch", "precision": "f32"}, lambda: by_torch.predict(picture))


def measure(predict: Callable[[], object], round_s: float) -> dict[str, Any]:
    """Calls one after the other for so long, and at least three."""
    begin_cpu_s, end_s = time.process_time(), time.perf_counter() + round_s
    calls_s: list[float] = []
    while len(calls_s) < _LEAST_CALLS or time.perf_counter() < end_s:
        begin_s = time.perf_counter()
        predict()
        calls_s.append(time.perf_counter() - begin_s)
    return {"calls_s": calls_s, "cpu_s": time.process_time() - begin_cpu_s}


def _warm(about: dict[str, Any], predict: Callable[[], object]) -> Loaded:
    for _ in range(_WARM_UP_CALLS):
        predict()
    return Loaded(about, predict)


def _answer(request: str, loaded: dict[str, Loaded]) -> dict[str, Any]:
    command, _, rest = request.partition(" ")
    key, _, round_s = rest.rpartition(" ")
    if command != "measure" or key not in loaded:
        raise ValueError(f"a request must be measure KEY SECONDS with KEY one of {', '.join(loaded)}, got {request!r}")
    return measure(loaded[key].predict, float(round_s))


def _claim_stdout() -> IO[str]:
    """Standard output for answers alone: what the libraries print to it goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _tell(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _read_requests(requests: "SimpleQueue[str]", folder: Path) -> None:
    """On a thread of its own, so that the end of the input is noticed in the middle of a call, too."""
    for line in sys.stdin:
        requests.put(line.strip())
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
