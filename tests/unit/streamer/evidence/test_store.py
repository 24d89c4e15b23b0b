"""The folder of evidence: its limits, and what is refused."""

import os
from pathlib import Path

import pytest

from deploy.errors import ConfigError
from streamer.evidence.store import EvidenceStore, event_folder, parse_manifest
from streamer.storage import EvidenceSettings
from tests.harness.fakes import FakeClock

DAY_S = 86_400
NOW_S = 1_700_000_000.0
SIZE_BYTES = 4_000_000


def stored(tmp_path: Path, **limits: float) -> EvidenceStore:
    """A store with one event a day for the last five days."""
    store = EvidenceStore(EvidenceSettings.model_validate({"dir": tmp_path, **limits}), wall_clock_s=FakeClock(NOW_S))
    for age in range(5):
        at_s = NOW_S - age * DAY_S
        store.write(f"{age:016x}", round(at_s * 1000), "clip.mp4", bytes(SIZE_BYTES))
        os.utime(tmp_path / event_folder(f"{age:016x}", round(at_s * 1000)) / "clip.mp4", (at_s, at_s))
    return store


def ages(folder: Path) -> list[int]:
    return sorted(int(path.name, 16) for path in folder.glob("2*/*"))


def test_evidence_is_deleted_by_age(tmp_path: Path) -> None:
    assert stored(tmp_path, keep_days=2.5).sweep() == 2
    assert ages(tmp_path) == [0, 1, 2]
    assert len(list(tmp_path.glob("2*"))) == 3  # no empty day stays behind


def test_the_oldest_evidence_is_deleted_first_if_there_is_too_much(tmp_path: Path) -> None:
    assert stored(tmp_path, keep_mb=10).sweep() == 3
    assert ages(tmp_path) == [0, 1]


def test_nothing_else_is_deleted(tmp_path: Path) -> None:
    store = stored(tmp_path, keep_days=0.5)
    (tmp_path / "2020-01-01" / "mine").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    store.sweep()
    assert (tmp_path / "2020-01-01" / "mine").exists()
    assert (tmp_path / "notes").exists()


@pytest.mark.parametrize("event_id", ["", "..", "../../etc/passwd", "0" * 15, "0" * 17, "G" * 16, "0" * 15 + "/", "０" * 16])
def test_an_event_id_cannot_name_another_folder(event_id: str) -> None:
    with pytest.raises(ValueError, match="an event_id is 16 hexadecimal digits"):
        event_folder(event_id, 0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_manifest_is_none(content: bytes) -> None:
    assert parse_manifest(content) is None


def test_a_folder_is_needed_that_can_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evidence\.dir is not set"):
        EvidenceStore(EvidenceSettings())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"evidence\.dir: .*file.* cannot be written to"):
        EvidenceStore(EvidenceSettings(dir=tmp_path / "file" / "evidence"))
