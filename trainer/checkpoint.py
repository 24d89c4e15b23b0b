"""Checkpoints: where a training run stands, so that the same command goes on after Ctrl-C or a kill.

Two files and no pickle: ``state.json`` says which ``step-N.safetensors`` is valid. It is replaced last and atomically, so
a kill at any moment leaves the previous checkpoint whole.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import CheckpointUnusable
from trainer.learner import Learner
from trainer.loop import Progress, Standing

FOLDER_NAME = ".checkpoint"
_STATE_NAME = "state.json"
_BEST = "best"


def save_checkpoint(folder: Path, learner: Learner, standing: Standing, identity: Mapping[str, Any]) -> Path:
    """Write a checkpoint of the run that ``identity`` describes, and drop the one before; the file with the weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{standing.progress.step:08d}.safetensors"
    save_file({key: value.detach().contiguous() for key, value in _tensors(learner, standing)}, folder / name)
    state = {"file": name, "progress": asdict(standing.progress), "identity": dict(identity)}
    (folder / f"{_STATE_NAME}.new").write_text(json.dumps(state, indent=2) + "\n")
    (folder / f"{_STATE_NAME}.new").replace(folder / _STATE_NAME)
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()
    return folder / name


def load_checkpoint(folder: Path, learner: Learner, identity: Mapping[str, Any]) -> Standing | None:
    """Put ``learner`` where the checkpoint in ``folder`` left it; None where there is no checkpoint.

    Raises:
        CheckpointUnusable: it is damaged, or belongs to a run that ``identity`` does not describe.
    """
    if not (folder / _STATE_NAME).is_file():
        return None
    try:
        state = json.loads((folder / _STATE_NAME).read_text())
        _check_identity(folder, state["identity"], identity)
        best = _restore(learner, folder / state["file"])
        return Standing(Progress(**state["progress"]), best)
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


def _tensors(learner: Learner, standing: Standing) -> Iterator[tuple[str, Tensor]]:
    for name, module in learner.modules.items():
        for key, tensor in module.state_dict().items():
            yield f"module/{name}/{key}", tensor
    for name, optimiser in learner.optimisers.items():
        for number, state in optimiser.state_dict()["state"].items():
            for key, tensor in state.items():
                yield f"optimiser/{name}/{number}/{key}", tensor
    for key, tensor in standing.best.items():
        yield f"{_BEST}/{key}", tensor


def _restore(learner: Learner, path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name, module in learner.modules.items():
        module.load_state_dict(_under(tensors, f"module/{name}"))
    for name, optimiser in learner.optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, f"optimiser/{name}").items():
            number, _, entry = key.partition("/")
            state.setdefault(int(number), {})[entry] = tensor
        _restore_optimiser(optimiser, state)
    return _under(tensors, _BEST)


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
