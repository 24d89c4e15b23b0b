"""Is there a GPU, and which? Asked before anything of TensorRT's run time is touched: without a driver that ends the process."""

from dataclasses import dataclass
from typing import Any

from deploy.engine import missing_library
from deploy.errors import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that engines run on: the first that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses)."""

    name: str
    compute_capability: str
    """As in ``9.0``."""


def find_gpu(engine: str) -> Gpu:
    """The GPU for ``engine``.

    Raises:
        EngineUnavailable: there is no PyTorch with CUDA, no driver, or no GPU; says which.
    """
    torch = import_torch(engine)
    lacking = lacking_cuda(torch)
    if lacking is not None:
        raise EngineUnavailable(f"the {engine} engine needs {lacking}")
    major, minor = torch.cuda.get_device_capability(0)
    return Gpu(torch.cuda.get_device_name(0), f"{major}.{minor}")


def lacking_cuda(torch: Any) -> str | None:
    """What PyTorch has to be given before it can use a GPU, and how that was found out; None: nothing."""
    if torch.version.cuda is None:
        return f"PyTorch with CUDA; the installed {torch.__version__} has none"
    if not torch.cuda.is_available():
        return "an NVIDIA GPU with its driver; CUDA finds none here"
    return None


def import_torch(engine: str) -> Any:
    """PyTorch, for ``engine``.

    Raises:
        EngineUnavailable: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_library(engine, "train", error) from error
    return torch
