"""JPEG decoding on an NVIDIA GPU by nvImageCodec, equivalent to :func:`deploy.image.decode_image`.

All images are checked by :mod:`deploy.image` first, also for damage, so that the same ones are refused for the same reasons.
Decoded images are fitted on the GPU, and only frames are copied to the host, if requested. PNGs, and whatever nvImageCodec
declines, are decoded on the CPU; each frame names its decoder.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from deploy.errors import BadFrame, DecoderFailed, DecoderUnavailable, first_line
from deploy.gpu.driver import CudaDriver, missing_cuda
from deploy.gpu.resize import GpuResizer
from deploy.image import AnyFrame, CpuDecoder, DecodedFrame, encode_jpeg, is_jpeg
from deploy.spec import ClipSpec

MAX_CALL_PX = 67_108_864  # in one library call: four of the largest images, 200 MB on the GPU and about 400 MB to fit them

_OPTIONS = ":fancy_upsampling=1"  # interpolates between chroma samples as libjpeg does, which is not nvJPEG's default
_PROBE_SIDE_PX = 64
_NO_IMAGE = "it returns no image, or none of the right size"
_USE_CPU = "set decode.backend to cpu"

_Result = DecodedFrame[AnyFrame] | BadFrame


class _Jpeg(NamedTuple):
    position: int  # in the list of images to decode
    encoded: bytes
    width_px: int
    height_px: int


class NvJpegDecoder:
    """An :class:`deploy.image.ImageDecoder`; ``threads`` threads for nvImageCodec, and as many for checks on the CPU.

    With ``on_device`` all frames are DeviceFrames, also those that the CPU decoded. Frames may outlive the decoder.
    Raises DecoderUnavailable if nvImageCodec or PyTorch with CUDA is missing, or there is no GPU it can decode on.
    """

    name = "nvjpeg"

    def __init__(self, spec: ClipSpec, threads: int, *, on_device: bool = False) -> None:
        self._spec = spec
        self._on_device = on_device
        self._library = _import_nvimgcodec()
        self._driver, self._stream = _open_device(self.name)
        self._done = self._driver.new_event()
        self._resizer = GpuResizer(spec, self._driver)
        gray = np.full((_PROBE_SIDE_PX, _PROBE_SIDE_PX, 3), 128, np.uint8)
        self._probe = _Jpeg(0, encode_jpeg(gray, 90), _PROBE_SIDE_PX, _PROBE_SIDE_PX)
        with ExitStack() as stack:
            self._params = self._decode_params()
            self._decoder = self._open(stack, threads)
            self._cpu = CpuDecoder(spec, threads)
            stack.callback(self._cpu.close)
            if (problem := self._probe_problem()) is not None:
                raise DecoderUnavailable(
                    "the nvjpeg decoder cannot be used: nvImageCodec finds a GPU but cannot decode an ordinary JPEG on it: "
                    f"{problem}; install nvJPEG: pip install 'oddsight[nvjpeg]', or {_USE_CPU}"
                )
            self._stack = stack.pop_all()

    def decode(self, images: Sequence[bytes]) -> list[_Result]:
        results: dict[int, _Result] = {}
        jpegs = []
        # nvJPEG fills in what is damaged and does not tell.
        for position, (encoded, size) in enumerate(zip(images, self._cpu.check(images), strict=True)):
            if isinstance(size, BadFrame):
                results[position] = size
            elif is_jpeg(encoded):
                jpegs.append(_Jpeg(position, encoded, *size))
        for batch in _batches(jpegs):
            results |= self._decode_batch(batch)
        rest = [position for position in range(len(images)) if position not in results]
        if rest:
            results |= zip(rest, self._decode_on_cpu([images[position] for position in rest]), strict=True)
        return [results[position] for position in range(len(images))]

    def describe(self) -> dict[str, str]:
        version = f"nvImageCodec {self._library.__version__}"
        return {"backend": self.name, "version": version, "device": f"GPU {self._decoder.device_id}"}

    def close(self) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack, threads: int) -> Any:
        kinds = self._library.BackendKind
        # All but CPU_ONLY, to which nvImageCodec would fall back without a message.
        backends = [self._library.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.HYBRID_CPU_GPU, kinds.GPU_ONLY)]
        try:
            decoder = self._library.Decoder(max_num_cpu_threads=threads, backends=backends, options=_OPTIONS)
        except Exception as error:  # which errors the library raises without a driver or GPU is undocumented
            raise _no_gpu(error) from error
        return stack.enter_context(decoder)

    def _decode_params(self) -> Any:
        colours, layouts = self._library.ColorSpec, self._library.SampleFormat
        gray = self._spec.colour == "gray"
        return self._library.DecodeParams(
            apply_exif_orientation=False,  # as in deploy.image
            color_spec=colours.GRAY if gray else colours.SRGB,
            sample_format=layouts.I_Y if gray else layouts.I_BGR,
        )

    def _probe_problem(self) -> str | None:
        """Why an ordinary JPEG cannot be decoded; None if it can."""
        try:
            return _NO_IMAGE if self._decode_on_gpu([self._probe])[0] is None else None
        except Exception as error:  # noqa: BLE001  any error of the libraries means that they do not work
            return first_line(error)

    def _decode_batch(self, jpegs: list[_Jpeg]) -> dict[int, _Result]:
        """Results by position, without declined images. Raises DecoderFailed if all were, and an ordinary JPEG is as well."""
        frames: Sequence[AnyFrame | None] = [None] * len(jpegs)
        reason = _NO_IMAGE
        try:
            frames = self._decode_on_gpu(jpegs)
        except Exception as error:  # noqa: BLE001  the bytes of one message must not end the service; a lost GPU does, below
            reason = first_line(error)
        if all(frame is None for frame in frames) and self._probe_problem() is not None:
            raise DecoderFailed(f"nvjpeg: GPU decoding failed: {reason}; restart, or {_USE_CPU}")
        return {
            jpeg.position: DecodedFrame(frame, jpeg.width_px, jpeg.height_px, self.name)
            for jpeg, frame in zip(jpegs, frames, strict=True)
            if frame is not None
        }

    def _decode_on_gpu(self, jpegs: list[_Jpeg]) -> Sequence[AnyFrame | None]:
        with self._synchronized():
            # The images are the library's memory, which must live until the stream has read it.
            images = self._library_decode(jpegs)
            frames = iter(self._resizer.fit([image for image in images if image is not None]))
            fitted = [None if image is None else next(frames) for image in images]
        return fitted if self._on_device else [None if frame is None else frame.on_host() for frame in fitted]

    @contextmanager
    def _synchronized(self) -> Iterator[None]:
        """Use the decoder's stream, and wait for it at the end, also after an error."""
        with self._driver.use_stream(self._stream):
            try:
                yield
            finally:
                self._done.record(self._stream)
                self._done.synchronize()

    def _library_decode(self, jpegs: list[_Jpeg]) -> list[Any]:
        """Tensors uint8 (H, W, C) in the library's memory; None for declined images."""
        streams = [self._code_stream(jpeg.encoded) for jpeg in jpegs]
        readable = [stream for stream in streams if stream is not None]
        # The library makes this stream wait for its own, and allocates and frees its memory on it.
        cuda_stream = self._driver.stream_handle()
        images = iter(self._decoder.decode(readable, params=self._params, cuda_stream=cuda_stream) if readable else [])
        return [None if each is None else self._checked(jpeg, next(images)) for jpeg, each in zip(jpegs, streams, strict=True)]

    def _code_stream(self, encoded: bytes) -> Any:
        try:
            return self._library.CodeStream(encoded)
        except Exception:  # noqa: BLE001  the library's parser declines it; libjpeg decides
            return None

    def _checked(self, jpeg: _Jpeg, image: Any) -> Any:
        """The image as a tensor; None if it is not what the header says, which is left to the CPU."""
        expected = (jpeg.height_px, jpeg.width_px, self._spec.channels)
        if image is None or tuple(image.shape) != expected or image.dtype != np.uint8:
            return None
        return self._driver.as_tensor(image)

    def _decode_on_cpu(self, images: list[bytes]) -> list[_Result]:
        results = self._cpu.decode(images)
        if not self._on_device:
            return [*results]
        try:
            with self._synchronized():
                return [
                    each if isinstance(each, BadFrame) else DecodedFrame(self._resizer.to_device(each.frame), *each[1:])
                    for each in results
                ]
        except Exception as error:  # any error of PyTorch
            raise DecoderFailed(
                f"nvjpeg: frames cannot be copied to the GPU: {first_line(error)}; restart, or {_USE_CPU}"
            ) from error


def _import_nvimgcodec() -> Any:
    # By default it writes a line to stderr for every image that it declines.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    with _required_libraries():
        from nvidia import nvimgcodec
    return nvimgcodec


def _open_device(name: str) -> tuple[CudaDriver, Any]:
    with _required_libraries():
        import torch
    if (missing := missing_cuda(torch)) is not None:
        raise DecoderUnavailable(f"the nvjpeg decoder needs {missing}; or {_USE_CPU}")
    driver = CudaDriver(name)
    try:
        return driver, driver.new_stream()
    except Exception as error:  # any error of PyTorch, if the GPU is full or reserved by another process
        raise _no_gpu(error) from error


@contextmanager
def _required_libraries() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DecoderUnavailable(
            f"the nvjpeg decoder cannot be used: {error}; install it: pip install 'oddsight[nvjpeg]', or {_USE_CPU}"
        ) from error


def _no_gpu(error: Exception) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"the nvjpeg decoder cannot be used: no GPU it can decode on: {first_line(error)}; check the driver with nvidia-smi, or "
        f"{_USE_CPU}"
    )


def _batches(jpegs: list[_Jpeg]) -> Iterator[list[_Jpeg]]:
    """Consecutive images of at most ``MAX_CALL_PX`` pixels together."""
    batch: list[_Jpeg] = []
    size_px = 0
    for jpeg in jpegs:
        size_px += jpeg.width_px * jpeg.height_px
        if batch and size_px > MAX_CALL_PX:
            yield batch
            batch, size_px = [], jpeg.width_px * jpeg.height_px
        batch.append(jpeg)
    if batch:
        yield batch
