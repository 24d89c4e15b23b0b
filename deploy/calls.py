"""What was measured of one thing that is called again and again."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Calls:
    """The calls of all rounds so far."""

    calls_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    """Of all calls, on all threads of the process."""

    def add(self, calls_s: list[float], cpu_s: float) -> None:
        """Another round."""
        self.calls_s += calls_s
        self.cpu_s += cpu_s

    @property
    def median_s(self) -> float:
        """Of one call."""
        return float(np.median(self.calls_s))

    @property
    def cpu_s_per_call(self) -> float:
        """The mean."""
        return self.cpu_s / len(self.calls_s)

    @property
    def latency_ms(self) -> dict[str, float]:
        """p50, p95, p99 of a call."""
        return {f"p{rank}": float(np.percentile(self.calls_s, rank)) * 1000 for rank in (50, 95, 99)}
