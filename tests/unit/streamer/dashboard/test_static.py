"""The files of the page: nothing makes markup of data, nothing is loaded from elsewhere, and every file is there."""

import re
from pathlib import Path

import pytest

from streamer.dashboard import app

STATIC = Path(app.__file__).parent / "static"
OWN = sorted(path for path in STATIC.iterdir() if path.suffix in {".js", ".html", ".css"})
# An inline style or script would not work under the Content-Security-Policy, and what makes markup of a text is how one gets in.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\bstyle=|<script>|javascript:"
)
MAX_LINE, MAX_LINES = 130, 300


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_makes_markup_of_data_or_needs_a_weaker_policy(path: Path) -> None:
    assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    addresses = re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8"))
    assert [address for address in addresses if "www.w3.org" not in address] == []  # names of XML's vocabularies


def test_every_import_and_link_leads_to_a_file() -> None:
    for path in OWN:
        text = path.read_text(encoding="utf-8")
        named = [STATIC / name for name in re.findall(r'from "\./([^"]+)"', text)]
        named += [STATIC / name for name in re.findall(r'"/static/([^"]+)"', text)]
        assert [name for name in named if not name.is_file()] == [], path.name


@pytest.mark.parametrize("path", [path for path in OWN if path.suffix == ".js"], ids=lambda path: path.name)
def test_scripts_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert [number for number, line in enumerate(lines, 1) if len(line) > MAX_LINE] == []
