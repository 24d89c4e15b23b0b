"""The running service: frames from Kafka, scores and events into Redis."""

import deploy as _deploy  # noqa: F401  sets the limit on pictures before any module here loads OpenCV
