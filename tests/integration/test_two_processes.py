"""Two processes under torchrun compute the gradients of one, and write one bundle."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deploy.bundle import Bundle, read_bundle
from tests.harness.brokers import free_ports
from tests.harness.shared_batch import save_gradients
from tests.harness.street import SLOW_PX, street, write
from trainer.models.registry import RECIPES

ROOT = Path(__file__).parents[2]
MODELS = [
    "video-ganomaly",
    *(f"video-ede/{part}" for part in ("flow", "anomaly", "feedback")),
    *(f"{name}/{dimensions}" for name in RECIPES for dimensions in (3, 1)),
]


def torchrun(*command: object) -> str:
    (port,) = free_ports(1)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", port]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RANK": "", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, *map(str, [*launcher, *command])],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def one_process(out: Path) -> None:
    default = torch.get_default_dtype()
    try:
        save_gradients(out)
    finally:
        torch.set_default_dtype(default)


class Results(NamedTuple):
    gradients: dict[int, dict[str, torch.Tensor]]
    """By the number of processes."""
    bundle: Bundle
    """Of two processes."""
    said: str


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One start for gradients and training: it takes longer than either."""
    folder: Path = tmp_path_factory.mktemp("processes")
    write(folder / "own", street(300, np.full(300, SLOW_PX), 0))
    one_process(folder / "1.safetensors")
    options = ["--model", "ganomaly", "--length", 1, "--max-minutes", 0.02]  # its export is the shortest
    fit = ["fit", "--data", folder / "own", "--out", folder / "bundle", *options]
    said = torchrun("tests/harness/shared_batch.py", folder / "2.safetensors", *fit)
    return Results({count: load_file(folder / f"{count}.safetensors") for count in (1, 2)}, read_bundle(folder / "bundle"), said)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_equal_one_process(results, model):
    of_one, of_two = (
        {key: value for key, value in found.items() if key.startswith(f"{model}/")} for found in results.gradients.values()
    )
    assert of_one.keys() == of_two.keys()
    assert len(of_one) > 5
    largest = max(float(value.abs().max()) for value in of_one.values())
    assert largest > 0
    for key, value in of_one.items():
        # Some gradients are 0 apart from rounding, such as that of a bias before batch normalisation.
        assert torch.allclose(value, of_two[key], rtol=1e-6, atol=1e-9 * largest), key


def test_fit_writes_one_bundle(results):
    assert results.bundle.manifest.metrics["processes"] == 2
    assert results.bundle.manifest.metrics["steps"] > 1
    assert results.said.count("frames of 1 videos to train on") == 1
    assert results.said.count("calibration ") == 1
    assert not (results.bundle.path / ".checkpoint").exists()
