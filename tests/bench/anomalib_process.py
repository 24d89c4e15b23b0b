"""anomalib's GANomaly with untrained weights, measured on request by :mod:`tests.bench.anomalib_comparison`.

Runs in anomalib's own environment and imports nothing of ours; arguments: THREADS (0: the inferencers' default) SIZE_PX ...
The first line of output describes the inferencers, every further one answers a line of input:

    in   openvino 64x64 0.6             out  {"calls_s": [0.004, ...], "cpu_s": 0.6}

``{"error": TEXT}`` in place of an answer is the last line. The process ends when its standard input does.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

_WARM_UP_CALLS = 2
_LEAST_CALLS = 3


def main() -> None:
    """Load once, then answer."""
    # The libraries print to standard output: that goes to standard error, and only answers to the pipe.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    # OpenVINO reports exports to its makers through this package, by processes that outlive this one.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to say that there is no such module
    try:
        threads, *sizes_px = map(int, sys.argv[1:])
        loaded = {key: (info, predict) for size_px in sizes_px for key, info, predict in load(size_px, threads)}
        _send(answers, {key: info for key, (info, _) in loaded.items()})
        for line in sys.stdin:
            key, _, round_s = line.strip().rpartition(" ")
            _send(answers, measure(loaded[key][1], float(round_s)))
    except Exception as error:  # noqa: BLE001  whatever anomalib raises is reported in one line
        _send(answers, {"error": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"})


def load(size_px: int, threads: int) -> Iterator[tuple[str, dict[str, Any], Callable[[], object]]]:
    """Key, description and prediction of both of anomalib's inferencers for images of one size."""
    import anomalib
    import numpy as np
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer
    from anomalib.models import Ganomaly

    sides_px, folder = (size_px, size_px), Path(str(size_px)).absolute()
    model = Ganomaly(pre_processor=Ganomaly.configure_pre_processor(sides_px))
    # Only the generator computes the score.
    millions = sum(weights.numel() for weights in model.model.generator.parameters()) / 1e6
    info = {"version": anomalib.__version__, "parameters_millions": millions}
    openvino_path, torch_path = model.to_openvino(folder, input_size=sides_px), model.to_torch(folder)
    image = np.random.default_rng(0).integers(0, 256, (*sides_px, 3), dtype=np.uint8)

    by_openvino = OpenVINOInferencer(openvino_path, device="CPU", config={"INFERENCE_NUM_THREADS": threads} if threads else None)
    precision = by_openvino.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    yield f"openvino {size_px}x{size_px}", {**info, "precision": precision}, _warm(lambda: by_openvino.predict(image))

    if threads:
        import torch

        torch.set_num_threads(threads)
    os.environ["TRUST_REMOTE_CODE"] = "1"  # it reads a pickle: the one written above
    by_torch = TorchInferencer(torch_path, device="cpu")
    yield f"torch {size_px}x{size_px}", {**info, "precision": "f32"}, _warm(lambda: by_torch.predict(image))


def measure(predict: Callable[[], object], round_s: float) -> dict[str, Any]:
    """Call repeatedly for ``round_s`` seconds, at least three times."""
    begin_cpu_s, end_s = time.process_time(), time.perf_counter() + round_s
    calls_s: list[float] = []
    while len(calls_s) < _LEAST_CALLS or time.perf_counter() < end_s:
        begin_s = time.perf_counter()
        predict()
        calls_s.append(time.perf_counter() - begin_s)
    return {"calls_s": calls_s, "cpu_s": time.process_time() - begin_cpu_s}


def _warm(predict: Callable[[], object]) -> Callable[[], object]:
    for _ in range(_WARM_UP_CALLS):
        predict()
    return predict


def _send(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
