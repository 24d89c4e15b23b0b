"""The house rules that ruff has no check for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["deploy", "streamer", "trainer"]
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
EVERYTHING = [*MODULES, *(path for folder in ("tests", "tools") for path in sorted((ROOT / folder).rglob("*.py")))]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

BARE_NOQA = re.compile(r"#\s*noqa(?!: [A-Z]+\d+(, [A-Z]+\d+)*  \w)")
BARE_TYPE_IGNORE = re.compile(r"#\s*type:\s*ignore(?!\[[a-z, -]+\]  # \w)")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_tells_type_checkers_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_every_module_says_what_it_is_for() -> None:
    assert [relative(path) for path in EVERYTHING if is_mute(path)] == []


def test_no_file_is_longer_than_one_sitting() -> None:
    assert [relative(path) for path in MODULES if len(lines(path)) > MAX_FILE_LINES] == []


def test_no_function_is_longer_than_a_screen() -> None:
    assert [name for path in EVERYTHING for name, length in functions(path) if length > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("bare", [BARE_NOQA, BARE_TYPE_IGNORE], ids=["noqa", "type-ignore"])
def test_every_exception_from_a_check_gives_its_reason(bare: re.Pattern[str]) -> None:
    assert [f"{relative(path)}:{n}" for path in EVERYTHING for n, line in enumerate(lines(path), 1) if bare.search(line)] == []


def is_mute(path: Path) -> bool:
    """A module without a docstring; test files explain themselves by the names of their tests."""
    explains_itself = path.is_relative_to(ROOT / "tests")
    return not explains_itself and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{relative(path)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
