"""What training and serving share: clip spec, bundle, engines, decision rule."""

import os

MAX_IMAGE_PX = 16_777_216  # largest image accepted, in pixels: 4096 x 4096, twice 4K

# OpenCV reads this limit once, when it is loaded, so it is set before any module of ours imports cv2.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_IMAGE_PX)
