"""What is written of an event."""

from pathlib import Path
from typing import cast

import cv2
import numpy as np

from deploy.image import encode_png
from streamer.areas import CameraAreas
from streamer.config import Settings
from streamer.evidence.footage import EventFootage
from streamer.evidence.store import EvidenceStore
from streamer.evidence.writer import EvidenceWriter
from streamer.pipeline.areas import KnownAreas
from streamer.storage import EvidenceSettings
from tests.harness.dashboard import event_of
from tests.harness.fakes import MemoryAreaStore

GREY = np.full((48, 64, 3), 128, np.uint8)


class _Footage:
    """A camera that always shows the same."""

    def frame(self, *_: object) -> bytes:
        return encode_png(GREY)


def test_a_mask_hides_what_was_seen_before_it_was_drawn(tmp_path: Path) -> None:
    drawn, store = MemoryAreaStore(), EvidenceStore(EvidenceSettings(dir=tmp_path))
    drawn.change("gate", lambda _: CameraAreas(masks=(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)))
    areas = KnownAreas(Settings(), drawn)
    areas.load()
    EvidenceWriter(areas, store, cast("EventFootage", _Footage())).write_picture(event_of(1), None, usual=GREY)
    for name in ("picture.jpg", "usual.jpg"):
        (path,) = tmp_path.rglob(name)
        shown = cv2.imread(str(path))
        assert shown is not None
        assert shown[:, :30].max() < 10
        assert shown[:, 40:].min() > 100
