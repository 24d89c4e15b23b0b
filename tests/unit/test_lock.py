"""The locked requirements agree with pyproject.toml and constraints.txt; when this fails: ``make lock``."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = ["stream", "dashboard", "notify", "s3", "demo", "onnx", "train", "dev"]
NOT_LOCKED = {"torch"}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> dict[str, str]:
    """Package -> version, of a file in which each is followed by the hashes of its files."""
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(HASH.search(line) for line in entries), "every file must have its hash"
    requirements = [Requirement(HASH.sub("", line)) for line in entries]
    assert all(each.url is None and len(each.specifier) == 1 for each in requirements)
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in requirements}


def direct(extra: str) -> list[Requirement]:
    project = PYPROJECT["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"][extra])]


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_direct_dependency_is_locked_in_its_range(extra: str) -> None:
    versions = locked(extra)
    wrong = {
        each.name: versions.get(canonicalize_name(each.name))
        for each in direct(extra)
        if each.name not in NOT_LOCKED and versions.get(canonicalize_name(each.name), "missing") not in each.specifier
    }
    assert wrong == {}
    assert not NOT_LOCKED & versions.keys()


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_versions_are_those_of_the_constraints(name: str) -> None:
    constraints = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(each.name): each.specifier for each in constraints}
    assert [package for package, version in locked(name).items() if package in pinned and version not in pinned[package]] == []


def test_the_build_backend_is_locked() -> None:
    (backend,) = (Requirement(text) for text in PYPROJECT["build-system"]["requires"])
    assert locked("build")[backend.name] in backend.specifier


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_no_address_of_an_index_is_written(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", path.read_text(encoding="utf-8"))
