"""Whether a camera shows light in which its profile was not learned: infrared, lamps, dusk.

A profile holds the camera's background in one light or in two. In any other one the scores of its frames mean little: something
seems to stay for ever, to move too fast or to look odd. Brightness and contrast are fitted before pictures are compared, so that
a cloud or the exposure makes no other light.
"""

from typing import Final

import numpy as np

from deploy.dwell import changed_all_over, reduce_frame
from deploy.image import Frame
from deploy.profile import Profile
from deploy.profile_learning import Normal
from deploy.score_maps import Grid

_FROM: Final = 0.3
"""Share of the places of three quarters of the picture from which on its light is unknown."""
_UNTIL: Final = 0.2  # below which it is known again


class LightWatch:
    """Compares pictures of one camera with the background of its profile."""

    def __init__(self, grid: Grid) -> None:
        """``grid``: of the model's maps."""
        self._grid = grid
        self._is_unknown = False

    def is_unknown(self, frame: Frame, profile: Profile) -> bool:
        """Whether the profile was learned in other light than that of ``frame``, uint8 (H, W, 1)."""
        background = Normal.from_values(profile.values, self._grid.shape).background
        share = changed_all_over(reduce_frame(frame).astype(np.float32), background)
        self._is_unknown = share >= (_UNTIL if self._is_unknown else _FROM)
        return self._is_unknown
