"""Write an untrained bundle of GANomaly at 64 x 64, to be measured beside anomalib's: for speed alone, its scores mean nothing.

    python tests/bench/ganomaly_64.py BUNDLE
    python tests/bench/anomalib_comparison.py --anomalib PYTHON --bundle BUNDLE --size 64

Of a frame of 128 x 128 grey pixels the graph makes one picture of 64 x 64, by averaging, and one score: its tile is as large as
the picture. The network is the one that anomalib has: halved four times, 64 channels at first, 100 numbers in the latent. What
differs: grey instead of three colours (6,144 weights less), and anomalib pads the picture to 72 x 72 on its way in, which makes
the first maps of its encoders 35 x 35 instead of 32 x 32. ``--width 32`` is the width that ``oddsight-train fit`` takes.

``--as-trained`` writes what ``oddsight-train fit --model ganomaly --length 1`` makes of frames of 64 x 64 pixels: its own small
network over nine overlapping tiles of 32 x 32, and a score for each.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

# The file's own folder is the path when it is run as a script.
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from deploy.benchmark.roofline import gflop_per_clip
from deploy.bundle import (
    GOLDEN_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    GoldenClips,
    ModelCard,
    golden_bytes,
    write_bundle,
)
from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.export.onnx import export_onnx, save_weights
from trainer.models.layers import init_dcgan
from trainer.models.registry import clip_model

SIDE_PX = 64
ANOMALIB_WIDTH = 64
GOLDEN_CLIPS = 2
AS_TRAINED: dict[str, Any] = {"length": 1, "height_px": SIDE_PX, "width_px": SIDE_PX}


def main() -> None:
    """Write the bundle, and say how large its network is."""
    arguments = parse_arguments()
    settings = AS_TRAINED if arguments.as_trained else like_anomalib(arguments.width)
    bundle, parameters = write_untrained(arguments.bundle, settings)
    print(  # noqa: T201  the script's result
        f"{bundle.model_id}: {SIDE_PX} x {SIDE_PX}, {parameters / 1e6:.3f} million parameters, "
        f"{gflop_per_clip(bundle):.3f} GFLOP a frame, untrained: {bundle.path}"
    )


def parse_arguments() -> argparse.Namespace:
    """Where to, and how large."""
    parser = argparse.ArgumentParser(description="Write an untrained bundle of GANomaly at 64 x 64, to measure its speed.")
    parser.add_argument("bundle", type=Path, help="folder to write")
    parser.add_argument("--width", type=int, default=ANOMALIB_WIDTH, help="channels after the first convolution")
    parser.add_argument("--as-trained", action="store_true", help="the network that fit makes of such frames instead")
    return parser.parse_args()


def like_anomalib(width: int) -> dict[str, Any]:
    """Settings of one tile as large as the picture."""
    frame_px = 2 * SIDE_PX  # a cell of the picture is 2 x 2 of these
    return {"length": 1, "height_px": frame_px, "width_px": frame_px, "side": SIDE_PX, "network": {"width": width}}


def write_untrained(path: Path, settings: dict[str, Any]) -> tuple[Bundle, int]:
    """The bundle, and the number of its network's parameters."""
    torch.manual_seed(0)
    model = clip_model("ganomaly")
    config = model.configure(settings)
    network, spec = model.build(config).eval().apply(init_dcgan), config.spec(10.0)
    clips = np.random.default_rng(0).integers(0, 256, (GOLDEN_CLIPS, *spec.clip_shape), dtype=np.uint8)
    with torch.inference_mode():
        score, heatmap = network(torch.from_numpy(clips))
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(GoldenClips(clips, score.numpy(), heatmap.numpy())),
    }
    card = ModelCard(kind=model.kind, config=config.model_dump())
    calibration = Calibration(median=0.0, peaks=(1.0,), observed_s=1.0, times=DecisionTimes())
    bundle = write_bundle(path, model=card, spec=spec, calibration=calibration, files=files, metrics={}, versions={})
    return bundle, sum(weights.numel() for weights in network.parameters())


if __name__ == "__main__":
    main()
