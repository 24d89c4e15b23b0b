"""What several files of integration tests share."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from deploy.bundle import DEFAULT_BUNDLE, WEIGHTS_NAME, Bundle, read_bundle
from deploy.export.onnx import export_onnx
from deploy.sequences import STRETCH_PICTURES, CalibrationFrames, read_calibration_frames
from streamer.demo.run import DEMO_DATA
from streamer.ingest.sources import open_source
from tests.harness.street import VIDEO_EDE_FIT, made_without_graph, quiet, write_data_set
from trainer.fit import fit
from trainer.models.registry import build_video_ede


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of moving shapes, see :func:`write_data_set`; of each file of tests its own."""
    root = tmp_path_factory.mktemp("data")
    write_data_set(root)
    return root


@pytest.fixture
def no_graph() -> Iterator[None]:
    """See :func:`made_without_graph`."""
    with made_without_graph():
        yield


@pytest.fixture(scope="session")
def shipped_in_half() -> bytes:
    """The shipped model's serving graph in float16, exported from its weights."""
    bundle = read_bundle(DEFAULT_BUNDLE)
    network = build_video_ede(bundle.manifest.model.config)
    network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)))
    return export_onnx(network, bundle.spec, half=True)


@pytest.fixture(scope="session")
def demo_footage(tmp_path_factory: pytest.TempPathFactory) -> CalibrationFrames:
    """One stretch of a camera of the demo's, which the shipped network's golden sequences are not of."""
    folder = tmp_path_factory.mktemp("ordinary")
    ordinary = DEMO_DATA / "videos" / "park.mp4"
    for number, picture in enumerate(islice(open_source(str(ordinary)), STRETCH_PICTURES)):
        (folder / f"{number}.jpg").write_bytes(picture.encoded)
    return read_calibration_frames([folder], read_bundle(DEFAULT_BUNDLE))


@pytest.fixture(scope="session")
def video_ede_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The default model, narrow and briefly trained on moving shapes. All workers share it, because its export takes long."""
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    shared: Path = tmp_path_factory.getbasetemp().parent if in_worker else tmp_path_factory.mktemp("shared")
    with FileLock(shared / "video-ede.lock"):
        if not (shared / "video-ede").exists():
            write_data_set(shared / "video-ede-data")
            fit(shared / "video-ede-data", shared / "video-ede-unfinished", VIDEO_EDE_FIT, quiet())
            (shared / "video-ede-unfinished").rename(shared / "video-ede")
    return read_bundle(shared / "video-ede")
