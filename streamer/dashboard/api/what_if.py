"""What a camera would have raised with another budget of false events."""

from typing import Annotated

from fastapi import APIRouter, Query

from deploy.errors import ConfigError
from streamer.config import CameraId
from streamer.dashboard.parts import AppParts, Viewer
from streamer.dashboard.problems import RequestRefused
from streamer.what_if import WhatIf, what_if

router = APIRouter(tags=["cameras"])

Budget = Annotated[float | None, Query(ge=1e-6, le=1e6)]


@router.get("/camera/what-if")
def decide_again(_who: Viewer, camera_id: Annotated[CameraId, Query()], parts: AppParts, budget: Budget = None) -> WhatIf:
    """Tell which events a camera's stored scores give at a budget, by default the one in force; changes nothing."""
    try:
        return what_if(parts.settings, camera_id, budget)
    except ConfigError as error:
        raise RequestRefused(
            409, str(error), "ask for a lower budget, or change the camera's thresholds in the settings"
        ) from error
