"""House rules that no linter checks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["deploy", "oddsight", "streamer", "trainer"]
PRODUCT = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
ALL_CODE = [*PRODUCT, *(path for folder in ("tests", "tools") for path in sorted((ROOT / folder).rglob("*.py")))]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

NOQA_WITHOUT_REASON = re.compile(r"#\s*noqa(?!: [A-Z]+\d+(, [A-Z]+\d+)*  \w)")
IGNORE_WITHOUT_REASON = re.compile(r"#\s*type:\s*ignore(?!\[[a-z, -]+\]  # \w)")


def test_packages_are_typed() -> None:
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").exists()] == []


def test_files_are_short() -> None:
    assert [name(path) for path in PRODUCT if len(lines(path)) > MAX_FILE_LINES] == []


def test_functions_fit_a_screen() -> None:
    assert [where for path in ALL_CODE for where, length in functions(path) if length > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("pattern", [NOQA_WITHOUT_REASON, IGNORE_WITHOUT_REASON], ids=["noqa", "type-ignore"])
def test_suppressions_give_a_reason(pattern: re.Pattern[str]) -> None:
    assert [f"{name(path)}:{n}" for path in ALL_CODE for n, line in enumerate(lines(path), 1) if pattern.search(line)] == []


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Place and number of lines of each function in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name(path)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
