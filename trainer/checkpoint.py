"""Checkpoints: where a training run stands, so that the same command goes on after Ctrl-C or a kill.

Two files and no pickle: ``state.json`` says which ``step-N.safetensors`` is valid. It is replaced last and atomically, so
a kill at any moment leaves the previous checkpoint whole.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import CheckpointUnusable

FOLDER_NAME = ".checkpoint"
_STATE_NAME = "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Trained:
    """What a checkpoint holds besides the progress: modules and optimisers by name."""

    modules: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]


def save_checkpoint(folder: Path, trained: Trained, progress: Progress, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint of the run that ``identity`` describes, and drop the one before."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{progress.step:08d}.safetensors"
    save_file(dict(_tensors(trained)), folder / name)
    state = {"file": name, "step": progress.step, "elapsed_s": progress.elapsed_s, "identity": dict(identity)}
    (folder / f"{_STATE_NAME}.new").write_text(json.dumps(state, indent=2) + "\n")
    (folder / f"{_STATE_NAME}.new").replace(folder / _STATE_NAME)
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path, trained: Trained, identity: Mapping[str, Any]) -> Progress | None:
    """Put modules and optimisers where the checkpoint in ``folder`` left them; None where there is no checkpoint.

    Raises:
        CheckpointUnusable: it is damaged, or belongs to a run that ``identity`` does not describe.
    """
    if not (folder / _STATE_NAME).is_file():
        return None
    try:
        state = json.loads((folder / _STATE_NAME).read_text())
        _check_identity(folder, state["identity"], identity)
        _restore(trained, folder / state["file"])
        return Progress(step=int(state["step"]), elapsed_s=float(state["elapsed_s"]))
    except CheckpointUnusable:
        raise
    except Exception as error:  # safetensors and torch raise many types for damaged content
        raise CheckpointUnusable(f"{folder}: the checkpoint is damaged ({error}); delete the folder to begin again") from error


def drop_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _check_identity(folder: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise CheckpointUnusable(
                f"{folder}: the checkpoint there was made with {key} = {found.get(key)!r}, this run has {value!r}; "
                "run the first command again to go on, delete the folder to begin again, or choose another --out"
            )


def _tensors(trained: Trained) -> Iterator[tuple[str, Tensor]]:
    for name, module in trained.modules.items():
        for key, tensor in module.state_dict().items():
            yield f"{name}/{key}", tensor.detach().contiguous()
    for name, optimiser in trained.optimisers.items():
        for number, state in optimiser.state_dict()["state"].items():
            for key, tensor in state.items():
                yield f"{name}/{number}/{key}", tensor.contiguous()


def _restore(trained: Trained, path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name, module in trained.modules.items():
        module.load_state_dict(_under(tensors, name))
    for name, optimiser in trained.optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, name).items():
            number, _, entry = key.partition("/")
            state.setdefault(int(number), {})[entry] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
