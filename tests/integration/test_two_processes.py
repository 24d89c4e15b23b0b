"""Two processes under torchrun compute the gradients of one, and write one bundle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deploy.bundle import read_bundle
from tests.harness.brokers import free_ports
from tests.harness.footage import picture
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
    return run(*launcher, *command, RANK="", MASTER_ADDR="127.0.0.1")


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, torch.Tensor]]:
    folder: Path = tmp_path_factory.mktemp("gradients")
    for count, start in ((1, run), (2, torchrun)):
        start("tests/harness/shared_batch.py", folder / f"{count}.safetensors")
    return {count: load_file(folder / f"{count}.safetensors") for count in (1, 2)}


@pytest.mark.parametrize("model", MODELS)
def test_gradients_equal_one_process(gradients, model):
    of_one, of_two = ({key: value for key, value in found.items() if key.startswith(f"{model}/")} for found in gradients.values())
    assert of_one.keys() == of_two.keys()
    assert len(of_one) > 5
    largest = max(float(value.abs().max()) for value in of_one.values())
    assert largest > 0
    for key, value in of_one.items():
        # Some gradients are 0 apart from rounding, such as that of a bias before batch normalisation.
        assert torch.allclose(value, of_two[key], rtol=1e-6, atol=1e-9 * largest), key


def test_fit_under_torchrun(tmp_path):
    frames = tmp_path / "own"
    frames.mkdir()
    for number in range(300):
        (frames / f"{number}.jpg").write_bytes(picture(number % 50, 96, 64))
    options = ["--model", "video-ganomaly", "--max-minutes", 0.05]  # its export takes a quarter of the default model's
    output = torchrun("-m", "trainer.cli", "fit", "--data", frames, "--out", tmp_path / "bundle", *options)
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest.metrics["processes"] == 2
    assert bundle.manifest.metrics["steps"] > 1
    assert output.count("frames of 1 videos to train on") == 1
    assert output.count("calibration ") == 1
    assert not (tmp_path / "bundle" / ".checkpoint").exists()
