"""Entry points of the commands: they run only if ``deploy``, ``streamer`` and ``trainer`` are Oddsight's own.

These names are generic. A package of the same name from elsewhere overwrites files of ours without a word from pip, or hides
them on the path, and then any line of code may run. The name of this package is not, so that the check itself is there.
"""

import base64
import hashlib
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, PackagePath, distribution
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("deploy", "streamer", "trainer")


def deploy() -> None:
    """Entry point of ``oddsight-deploy``."""
    _run("deploy")


def stream() -> None:
    """Entry point of ``oddsight-stream``."""
    _run("streamer")


def train() -> None:
    """Entry point of ``oddsight-train``."""
    _run("trainer")


def _run(package: str) -> None:
    foreign = find_foreign(Path(__file__).parents[1], _installed_files())
    if foreign is not None:
        sys.exit(
            f"error: {foreign} is not Oddsight's: another package with the same name is installed here; install Oddsight in an "
            "environment of its own (python3 -m venv, pipx, or the container image)"
        )
    import_module(f"{package}.cli").main()


def find_foreign(root: Path, installed: Iterable[PackagePath]) -> Path | None:
    """A file that would be imported instead of ours in ``root``, or that differs from what was installed; None if all is well."""
    for package in PACKAGES:
        spec = find_spec(package)
        place = Path(spec.origin) if spec is not None and spec.origin is not None else root / package
        if place.resolve() != (root / package / "__init__.py").resolve():
            return place
    for file in installed:
        if file.parts[0] in PACKAGES and file.suffix == ".py" and not _is_as_installed(file):
            return Path(str(file.locate()))
    return None


def _installed_files() -> Iterable[PackagePath]:
    """The files that pip has recorded; none of ours for an editable installation."""
    try:
        return distribution("oddsight").files or ()
    except PackageNotFoundError:
        return ()


def _is_as_installed(file: PackagePath) -> bool:
    path = Path(str(file.locate()))
    if file.hash is None or not path.is_file():
        return False
    digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == file.hash.value
