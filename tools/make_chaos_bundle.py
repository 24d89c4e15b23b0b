#!/usr/bin/env python3
"""Make ``streamer/chaos/bundle``, which ``oddsight-stream chaos`` serves: a model with a state that costs next to nothing.

python tools/make_chaos_bundle.py

The model is that of the tests, :mod:`tests.harness.recurrent_toy`: how bright each place has been lately. Dark pictures score
below 0.5, a bright patch above 0.6; the score fades over several frames, so that a state which is lost shows in it.
"""

from pathlib import Path

import numpy as np

from tests.harness.calibration import calibration_of
from tests.harness.recurrent_toy import toy_spec, write_toy_bundle

OUT = Path(__file__).parents[1] / "streamer" / "chaos" / "bundle"
HEIGHT_PX, WIDTH_PX = 32, 48
GOLDEN_CLIPS = 4


def main() -> None:
    """Write the bundle."""
    clips = np.random.default_rng(0).integers(40, 200, (GOLDEN_CLIPS, 1, HEIGHT_PX, WIDTH_PX, 1)).astype(np.uint8)
    write_toy_bundle(OUT, toy_spec(HEIGHT_PX, WIDTH_PX), clips, calibration_of(enter=0.6, exit_=0.5))


if __name__ == "__main__":
    main()
