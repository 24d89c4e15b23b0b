"""The installed commands refuse to run with a package of the same name from elsewhere."""

import base64
import hashlib
import subprocess
import sys
from importlib.metadata import PackagePath, distribution
from pathlib import Path

import pytest

from oddsight.commands import PACKAGES, find_foreign

ROOT = Path(__file__).parents[2]
RUN = "from oddsight.commands import stream; stream()"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which Oddsight is installed, with packages that only print."""
    contents = {"oddsight/commands.py": (ROOT / "oddsight" / "commands.py").read_bytes(), "oddsight/__init__.py": b""}
    for package in PACKAGES:
        contents |= {f"{package}/__init__.py": b"", f"{package}/cli.py": b"def main():\n    print('runs')\n"}
    info = tmp_path / "oddsight-0.1.0.dist-info"
    info.mkdir()
    lines = []
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        lines.append(f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},1")
    (info / "METADATA").write_text("Name: oddsight\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("\n".join(lines))
    return tmp_path


def run(*path: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}; {RUN}"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_runs_as_installed(installed: Path) -> None:
    assert run(installed).stdout == "runs\n"


def test_refuses_an_overwritten_file(installed: Path) -> None:
    (installed / "trainer" / "__init__.py").write_text("print('foreign code')")
    done = run(installed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {installed / 'trainer' / '__init__.py'} is not Oddsight's: ")
    assert done.stderr.count("\n") == 1


def test_refuses_a_package_that_hides_ours(installed: Path, tmp_path: Path) -> None:
    hiding = tmp_path / "elsewhere"
    (hiding / "deploy").mkdir(parents=True)
    (hiding / "deploy" / "__init__.py").write_text("print('foreign code')")
    done = run(hiding, installed)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{hiding / 'deploy' / '__init__.py'} is not Oddsight's" in done.stderr


def test_this_working_tree_is_ours() -> None:
    assert find_foreign(ROOT, list[PackagePath]()) is None
    assert distribution("oddsight").version
