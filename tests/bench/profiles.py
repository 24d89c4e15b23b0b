"""CPU time a clip for 32 cameras with a profile each, against 32 cameras that share one, in turns; prints one JSON object.

python tests/bench/profiles.py [BUNDLE]
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from deploy.engine import EngineRequest
from deploy.registry import load_engine

CAMERAS, CALLS = 32, 15


def main() -> None:
    """Measure and print."""
    bundle = read_bundle(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_BUNDLE)
    engine, rng = load_engine(bundle, EngineRequest(max_clips=CAMERAS)), np.random.default_rng(0)
    clips = rng.integers(0, 256, (CAMERAS, *bundle.spec.clip_shape), np.uint8)
    state = engine.score(clips).state
    own = bundle.default_profile * rng.uniform(0.8, 1.25, (CAMERAS, 1)).astype(np.float32)
    cpu_ms: dict[str, list[float]] = {"shared": [], "own": []}
    for _ in range(CALLS):
        for name, profile in (("shared", None), ("own", own)):
            begin_s = time.process_time()
            engine.score(clips, state, profile)
            cpu_ms[name].append((time.process_time() - begin_s) / CAMERAS * 1000)
    medians = {name: float(np.median(values)) for name, values in cpu_ms.items()}
    sys.stdout.write(json.dumps({"cpu_ms_per_clip": medians, "ratio": medians["own"] / medians["shared"]}) + "\n")


if __name__ == "__main__":
    main()
