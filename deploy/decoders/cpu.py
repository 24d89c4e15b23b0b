"""The image decoder on the CPU, with OpenCV."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from deploy.errors import BadFrame
from deploy.image import OPENCV_VERSION, DecodedFrame, Frame, decode_image
from deploy.spec import ClipSpec


class CpuDecoder:
    """An :class:`ImageDecoder` on ``threads`` threads: OpenCV releases the interpreter lock while it decodes."""

    name = "cpu"

    def __init__(self, spec: ClipSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")

    def decode(self, images: Sequence[bytes]) -> list[DecodedFrame[Frame] | BadFrame]:
        return list(self._pool.map(self._decode_one, images))

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, "version": f"OpenCV {OPENCV_VERSION}", "device": "CPU", "threads": str(self._threads)}

    def close(self) -> None:
        self._pool.shutdown()

    def _decode_one(self, image: bytes) -> DecodedFrame[Frame] | BadFrame:
        try:
            return decode_image(image, self._spec)
        except BadFrame as error:
            return error
