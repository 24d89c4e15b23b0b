"""What several files of integration tests share."""

import shutil
from io import StringIO
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from deploy.bundle import WEIGHTS_NAME, Bundle, read_bundle
from deploy.export.onnx import export_onnx
from deploy.sequences import STRETCH_PICTURES, CalibrationFrames, read_calibration_frames
from streamer.demo.run import DEMO_BUNDLE
from streamer.ingest.sources import open_source
from tests.harness.replay import PED2
from tests.harness.street import write_data_set
from trainer.fit import FitConfig, fit
from trainer.models.registry import build_video_ede


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of moving shapes, see :func:`write_data_set`; of each file of tests its own."""
    root = tmp_path_factory.mktemp("data")
    write_data_set(root)
    return root


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """For bundles of which only the weights are wanted: half the time of a fit goes into the graph, which follows from them."""
    monkeypatch.setattr("trainer.export.export_onnx", lambda *_: b"")


@pytest.fixture(scope="session")
def shipped_in_half() -> bytes:
    """The shipped model's serving graph in float16, exported from its weights."""
    bundle = read_bundle(DEMO_BUNDLE)
    network = build_video_ede(bundle.manifest.model.config)
    network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)))
    return export_onnx(network, bundle.spec, half=True)


@pytest.fixture(scope="session")
def demo_footage(tmp_path_factory: pytest.TempPathFactory) -> CalibrationFrames:
    """One stretch of the demo's training footage, that its golden sequences are not of."""
    folder = tmp_path_factory.mktemp("ordinary")
    ordinary = DEMO_BUNDLE.parent / "training" / "videos" / "ordinary.mp4"
    for number, picture in enumerate(islice(open_source(str(ordinary)), STRETCH_PICTURES)):
        (folder / f"{number}.jpg").write_bytes(picture.encoded)
    return read_calibration_frames([folder], read_bundle(DEMO_BUNDLE))


@pytest.fixture(scope="session")
def ped2_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The default model after a moment's training on two of Ped2's clips: what it finds is no matter, how it computes is.

    At half size and narrow: most of its time goes into the export as it is.
    """
    clips = PED2 / "training" / "frames"
    if not clips.is_dir():
        pytest.skip(f"no Ped2 in {PED2}: set ODDSIGHT_DATA")
    own: Path = tmp_path_factory.mktemp("ped2")
    for clip in ("01", "02"):
        (own / "training" / clip).mkdir(parents=True)
        for frame in sorted((clips / clip).glob("*.jpg"))[:80]:
            shutil.copy(frame, own / "training" / clip)
    (own / "testing").mkdir()  # or the last tenth would be set aside
    network = {"height_px": 120, "width_px": 176, "first": 4, "fine": 16, "coarse": 16, "width": 18, "latent": 4}
    config = FitConfig(max_steps=45, batch_clips=4, max_minutes=10, network=network)
    bundle = fit(own, tmp_path_factory.mktemp("bundle"), config, Console(file=StringIO()))
    assert bundle is not None
    return bundle
