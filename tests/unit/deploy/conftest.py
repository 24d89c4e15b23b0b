"""Real, tiny bundles: their networks are found through real entry points, exported and written like trained ones."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.bundle import (
    GOLDEN_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    GoldenClips,
    ModelCard,
    golden_bytes,
    read_bundle,
    write_bundle,
)
from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.spec import ClipSpec

SPEC = ClipSpec(length=3, height_px=24, width_px=40, colour="gray")
CARD = ModelCard(kind="tiny-network", config={"length": 3, "channels": 1})
CALIBRATION = Calibration(median=0.1, peaks=(0.3, 0.2), observed_s=100.0, times=DecisionTimes())
PLUGIN_CODE = Path(__file__).parent / "plugin"


@pytest.fixture(scope="session")
def plugin_paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Folders which, on ``sys.path``, make tiny-network an installed network."""
    installed = tmp_path_factory.mktemp("plugin")
    metadata = installed / "tiny_network-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-network\nVersion: 1.0\n")
    networks = ["tiny-network = tiny_network:build", "recurrent-toy = tests.harness.recurrent_toy:build"]
    (metadata / "entry_points.txt").write_text("\n".join(["[oddsight.networks]", *networks, ""]))
    with pytest.MonkeyPatch.context() as patch:
        for path in (installed, PLUGIN_CODE):
            patch.syspath_prepend(path)
        yield [installed, PLUGIN_CODE]


@pytest.fixture(scope="session")
def clips() -> NDArray[np.uint8]:
    """Eight clips of noise of different strength, so that all scores differ."""
    rng = np.random.default_rng(7)
    strength = np.linspace(0.2, 1, 8).reshape(8, 1, 1, 1, 1)
    return (rng.integers(0, 256, (8, *SPEC.clip_shape)) * strength).astype(np.uint8)


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory, plugin_paths: list[Path], clips: NDArray[np.uint8]) -> Path:
    """Shared by all tests: read it, never change it."""
    pytest.importorskip("torch", reason="making a bundle needs torch: pip install 'oddsight[train]'")
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"), clips).path


def write_tiny_bundle(path: Path, clips: NDArray[np.uint8]) -> Bundle:
    """A bundle of tiny-network for clips as long as ``clips``, which become its golden ones."""
    import tiny_network
    import torch

    from deploy.export.onnx import export_onnx, save_weights

    length = clips.shape[1]
    spec, config = SPEC.model_copy(update={"length": length}), {**CARD.config, "length": length}
    network = tiny_network.build(config).eval()
    with torch.inference_mode():
        score, heatmap = network(torch.tensor(clips))
    golden = GoldenClips(clips=clips, score=score.numpy(), heatmap=heatmap.numpy())
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(golden),
    }
    card, versions = ModelCard(kind=CARD.kind, config=config), {"oddsight": "0.1.0"}
    return write_bundle(
        path, model=card, spec=spec, calibration=CALIBRATION, files=files, metrics={"auc": 0.9}, versions=versions
    )


@pytest.fixture(scope="session")
def newest_only_folder(tmp_path_factory: pytest.TempPathFactory, plugin_paths: list[Path], clips: NDArray[np.uint8]) -> Path:
    """As ``bundle_folder``, of a model that sees one frame."""
    pytest.importorskip("torch", reason="making a bundle needs torch: pip install 'oddsight[train]'")
    return write_tiny_bundle(tmp_path_factory.mktemp("newest-only"), clips[:, -1:]).path


@pytest.fixture(scope="session")
def recurrent_newest_only_folder(
    tmp_path_factory: pytest.TempPathFactory, plugin_paths: list[Path], clips: NDArray[np.uint8]
) -> Path:
    """As ``recurrent_folder``, of a model that sees one frame."""
    pytest.importorskip("torch", reason="making a bundle needs torch: pip install 'oddsight[train]'")
    from tests.harness.recurrent_toy import toy_spec, write_toy_bundle

    spec = toy_spec(SPEC.height_px, SPEC.width_px)
    return write_toy_bundle(tmp_path_factory.mktemp("recurrent-newest-only"), spec, clips[:, -1:], CALIBRATION).path


@pytest.fixture(scope="session")
def recurrent_folder(tmp_path_factory: pytest.TempPathFactory, plugin_paths: list[Path], clips: NDArray[np.uint8]) -> Path:
    """A bundle of a model with a state, for the same clips. Shared by all tests: read it, never change it."""
    pytest.importorskip("torch", reason="making a bundle needs torch: pip install 'oddsight[train]'")
    from tests.harness.recurrent_toy import toy_spec, write_toy_bundle

    spec = toy_spec(SPEC.height_px, SPEC.width_px, SPEC.length)
    return write_toy_bundle(tmp_path_factory.mktemp("recurrent"), spec, clips, CALIBRATION).path


@pytest.fixture
def recurrent_bundle(recurrent_folder: Path, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    return read_bundle(shutil.copytree(recurrent_folder, tmp_path / "recurrent"))


@pytest.fixture
def bundle(bundle_folder: Path, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    # Plans that other tests had built lie in it.
    return read_bundle(shutil.copytree(bundle_folder, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")))


@pytest.fixture
def bundle_with_other_weights(bundle: Bundle) -> Bundle:
    """Its serving graph gives the golden scores, its weights do not."""
    from safetensors.numpy import load_file, save

    weights = load_file(bundle.file(WEIGHTS_NAME))
    weights["layers.5.weight"] *= 1.01
    files = {name: bundle.file(name).read_bytes() for name in (ONNX_NAME, GOLDEN_NAME)} | {WEIGHTS_NAME: save(weights)}
    return write_bundle(bundle.path, model=CARD, spec=SPEC, calibration=CALIBRATION, files=files, metrics={}, versions={})
