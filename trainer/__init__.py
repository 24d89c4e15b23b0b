"""Footage in, a trained, evaluated and calibrated bundle out."""

import deploy as _deploy  # noqa: F401  sets the limit on pictures before any module here loads OpenCV
