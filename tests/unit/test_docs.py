"""The documentation agrees with the code: pages written from it, links, paths, settings, metrics, commands."""

import re
from pathlib import Path

import pytest
import typer.main

import deploy.cli
import streamer.cli
import trainer.cli
from streamer.config import Settings
from streamer.monitoring import EvidenceMetrics, Metrics, NotifyMetrics
from tools.write_reference import FOLDER, PAGES

ROOT = Path(__file__).parents[2]
PAGES_FOR_READERS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docker/README.md",
        "docker/observability/README.md",
        "streamer/demo/data/README.md",
    )
]
PAGES_FOR_READERS += sorted((ROOT / "docs").rglob("*.md"))
MAX_LINE = 120

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE_PATH = re.compile(r"(?<![\w./-])((?:deploy|streamer|trainer|tests|tools|docs|docker|\.ci)/[\w./-]*\w)")
SETTING = re.compile(r"`(kafka|redis|engine|decode|batch|decision|registry|http|evidence|dashboard|notify)\.(?!json)(\w+)")
METRIC = re.compile(r"\boddsight_\w+")
COMMAND = re.compile(r"(?:^\s*(?:\$ )?|`)oddsight-(train|deploy|stream) ([a-z][^`|#\n]*)", re.MULTILINE)
APPS = {"train": trainer.cli.app, "deploy": deploy.cli.app, "stream": streamer.cli.app}

each_page = pytest.mark.parametrize("page", PAGES_FOR_READERS, ids=lambda page: page.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("name", PAGES)
def test_reference_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


@each_page
def test_lines_fit(page: Path) -> None:
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert [n for n, line in lines if len(line) > MAX_LINE and not line.lstrip().startswith("|") and "://" not in line] == []


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@each_page
def test_named_paths_exist(page: Path) -> None:
    paths = CODE_PATH.findall(page.read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@each_page
def test_named_settings_exist(page: Path) -> None:
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    named = SETTING.findall(page.read_text(encoding="utf-8"))
    assert [(section, key) for section, key in named if key not in sections[section].model_fields] == []  # type: ignore[union-attr]  # sections are models


@each_page
def test_named_metrics_exist(page: Path) -> None:
    exposed = Metrics().exposition() + NotifyMetrics().exposition() + EvidenceMetrics().exposition()
    names = "\n".join(line for line in exposed.decode().splitlines() if line.startswith("#"))
    assert [name for name in METRIC.findall(page.read_text(encoding="utf-8")) if name not in names] == []


@each_page
def test_named_commands_exist(page: Path) -> None:
    if page.name == "commands.md":
        return  # written from the commands themselves
    for program, line in COMMAND.findall(page.read_text(encoding="utf-8")):
        command, words = typer.main.get_command(APPS[program]), line.split()
        while words and not words[0].startswith("-") and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if re.match("--[a-z]", word)} <= options, line


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
