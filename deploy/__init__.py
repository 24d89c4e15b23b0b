"""The artefact between training and serving: clip contract, bundle, engines, decision rule."""

import os

MAX_PICTURE_PX = 16_777_216
"""Largest picture accepted, in pixels: 4096 x 4096, twice 4K."""

# OpenCV reads this limit once, when it is loaded, so it is set before any module of ours imports cv2.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PICTURE_PX)
