"""JPEGs decoded on an NVIDIA GPU by nvImageCodec: the second implementation of what :mod:`deploy.image` promises.

The checks of header and size are those of :mod:`deploy.image`, and come first. A decoded picture is fitted where it lies, on the
GPU, and only the frame is copied to the host, if it is wanted there. PNGs, JPEGs without an end marker and whatever nvImageCodec
declines are decoded by OpenCV, so that the same pictures are refused for the same reasons; each frame says who decoded it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from deploy.decoders.gpu_resize import Fitter
from deploy.decoders.registry import CpuDecoder
from deploy.errors import BadFrame, DecoderFailed, DecoderUnavailable
from deploy.gpu.driver import CudaDriver, Driver, lacking_cuda
from deploy.image import AnyFrame, DecodedFrame, Frame, encode_jpeg, is_whole_jpeg, picture_size
from deploy.spec import ClipSpec

MAX_CALL_PX = 67_108_864
"""Pixels of one call, four of the largest pictures: 200 MB on the GPU, and some 400 to fit them there, however long a poll is."""

_OPTIONS = ":fancy_upsampling=1"
"""Colour is interpolated between its samples, as libjpeg does it and nvJPEG by itself does not."""
_PROBE_SIDE_PX = 64
_NOTHING = "it gives back no picture, or none of the right size"


class _Jpeg(NamedTuple):
    place: int
    """Among the pictures asked for."""
    encoded: bytes
    width_px: int
    height_px: int


class NvJpegDecoder:
    """See :class:`deploy.image.PictureDecoder`. ``threads``: CPU threads for nvImageCodec, and for what OpenCV decodes.

    ``on_device``: all frames are DeviceFrames, those that OpenCV decoded as well.

    Raises:
        DecoderUnavailable: nvImageCodec or PyTorch with CUDA is missing, or finds no GPU, or none it can decode on.
    """

    name = "nvjpeg"

    def __init__(self, spec: ClipSpec, threads: int, *, on_device: bool = False) -> None:
        self._spec = spec
        self._on_device = on_device
        self._library = _import_nvimgcodec()
        self._driver, self._stream = _open_device(self.name)
        self._done = self._driver.event()
        self._fitter = Fitter(spec, self._driver)
        self._probe = _Jpeg(
            0, encode_jpeg(np.full((_PROBE_SIDE_PX, _PROBE_SIDE_PX, 3), 128, np.uint8), 90), *[_PROBE_SIDE_PX] * 2
        )
        with ExitStack() as stack:
            self._params = self._decode_params()
            self._decoder = self._open(stack, threads)
            self._cpu = CpuDecoder(spec, threads)
            stack.callback(self._cpu.close)
            trouble = self._trouble()
            if trouble is not None:
                raise DecoderUnavailable(
                    f"the nvjpeg decoder cannot be used: nvImageCodec finds a GPU but no JPEG becomes a frame there: {trouble}; "
                    "install nvJPEG: pip install 'oddsight[nvjpeg]', or set decode.backend to cpu"
                )
            self._stack = stack.pop_all()

    def decode(self, pictures: Sequence[bytes]) -> list[DecodedFrame[AnyFrame] | BadFrame]:
        """See :meth:`deploy.image.PictureDecoder.decode`."""
        found: dict[int, DecodedFrame[AnyFrame] | BadFrame] = {}
        jpegs = []
        for place, encoded in enumerate(pictures):
            try:
                size = picture_size(encoded)
            except BadFrame as error:
                found[place] = error
            else:
                if is_whole_jpeg(encoded):
                    jpegs.append(_Jpeg(place, encoded, *size))
        for call in _calls(jpegs):
            found |= self._decode_call(call)
        left = [place for place in range(len(pictures)) if place not in found]
        if left:
            found |= zip(left, self._by_opencv([pictures[place] for place in left]), strict=True)
        return [found[place] for place in range(len(pictures))]

    def describe(self) -> dict[str, str]:
        """See :meth:`deploy.image.PictureDecoder.describe`."""
        version = f"nvImageCodec {self._library.__version__}"
        return {"backend": self.name, "version": version, "device": f"GPU {self._decoder.device_id}"}

    def close(self) -> None:
        """See :meth:`deploy.image.PictureDecoder.close`. Frames outlive it."""
        self._stack.close()

    def _open(self, stack: ExitStack, threads: int) -> Any:
        kinds = self._library.BackendKind
        # All but CPU_ONLY: nvImageCodec brings a decoder for the CPU, and would fall back on it without a word.
        backends = [self._library.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.HYBRID_CPU_GPU, kinds.GPU_ONLY)]
        try:
            decoder = self._library.Decoder(max_num_cpu_threads=threads, backends=backends, options=_OPTIONS)
        except Exception as error:  # whatever the library raises where it finds no driver or no GPU
            raise _no_gpu(error) from error
        return stack.enter_context(decoder)

    def _decode_params(self) -> Any:
        colours, layouts = self._library.ColorSpec, self._library.SampleFormat
        gray = self._spec.colour == "gray"
        return self._library.DecodeParams(
            # A camera turned upside down is a fact of the scene, see deploy.image.
            apply_exif_orientation=False,
            color_spec=colours.GRAY if gray else colours.SRGB,
            sample_format=layouts.I_Y if gray else layouts.I_BGR,
        )

    def _trouble(self) -> str | None:
        """Why an ordinary JPEG becomes no frame; None where it does."""
        try:
            return _NOTHING if self._frames([self._probe])[0] is None else None
        except Exception as error:  # noqa: BLE001  whatever the libraries raise, they do not work
            return _reason(error)

    def _decode_call(self, jpegs: list[_Jpeg]) -> dict[int, DecodedFrame[AnyFrame] | BadFrame]:
        """Frames by place; those that were declined are left out.

        Raises:
            DecoderFailed: nothing came out, nor does an ordinary JPEG any more.
        """
        frames: Sequence[AnyFrame | None] = [None] * len(jpegs)
        reason = _NOTHING
        try:
            frames = self._frames(jpegs)
        except Exception as error:  # noqa: BLE001  one message's bytes must not end the service; a lost GPU does, below
            reason = _reason(error)
        if all(frame is None for frame in frames) and self._trouble() is not None:
            raise DecoderFailed(f"nvjpeg: the GPU decodes no more: {reason}; start again, or set decode.backend to cpu")
        found = [(jpeg, frame) for jpeg, frame in zip(jpegs, frames, strict=True) if frame is not None]
        return {jpeg.place: DecodedFrame(frame, jpeg.width_px, jpeg.height_px, self.name) for jpeg, frame in found}

    def _frames(self, jpegs: list[_Jpeg]) -> Sequence[AnyFrame | None]:
        """One batched call; None for what is declined."""
        with self._at_once():
            # The pictures are the library's memory. This name keeps them until the stream has read them.
            pictures = self._pictures(jpegs)
            frames = iter(self._fitter.fit([picture for picture in pictures if picture is not None]))
            fitted = [None if picture is None else next(frames) for picture in pictures]
        return fitted if self._on_device else [None if frame is None else frame.on_host() for frame in fitted]

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """On the decoder's stream, which is waited for at the end, be it an error: then nothing is on its way any more."""
        with self._driver.on(self._stream):
            try:
                yield
            finally:
                self._done.record(self._stream)
                self._done.synchronize()

    def _pictures(self, jpegs: list[_Jpeg]) -> list[Any]:
        """Tensors uint8 (H, W, C) over the library's own memory; None for what is declined."""
        streams = [self._code_stream(jpeg.encoded) for jpeg in jpegs]
        readable = [stream for stream in streams if stream is not None]
        # On this very stream the library waits for its own, and takes and frees its memory.
        stream = self._driver.handle()
        images = iter(self._decoder.decode(readable, params=self._params, cuda_stream=stream) if readable else [])
        return [None if each is None else self._picture(jpeg, next(images)) for jpeg, each in zip(jpegs, streams, strict=True)]

    def _code_stream(self, encoded: bytes) -> Any:
        try:
            return self._library.CodeStream(encoded)
        except Exception:  # noqa: BLE001  its own parser declines it; OpenCV has the last word
            return None

    def _picture(self, jpeg: _Jpeg, image: Any) -> Any:
        """None where a picture is not what its header promised: OpenCV has the last word there, too."""
        promised = (jpeg.height_px, jpeg.width_px, self._spec.channels)
        if image is None or tuple(image.shape) != promised or image.dtype != np.uint8:
            return None
        return self._driver.shared(image)

    def _by_opencv(self, pictures: list[bytes]) -> list[DecodedFrame[AnyFrame] | BadFrame]:
        """Raises DecoderFailed where frames are to stay on the GPU and cannot be copied there."""
        results = self._cpu.decode(pictures)
        if not self._on_device:
            return [*results]
        try:
            with self._at_once():
                return [each if isinstance(each, BadFrame) else self._moved_up(each) for each in results]
        except Exception as error:  # whatever PyTorch raises
            raise DecoderFailed(
                f"nvjpeg: the GPU takes no frames: {_reason(error)}; start again, or set decode.backend to cpu"
            ) from error

    def _moved_up(self, decoded: DecodedFrame[Frame]) -> DecodedFrame[AnyFrame]:
        return DecodedFrame(self._fitter.moved_up(decoded.frame), decoded.width_px, decoded.height_px, decoded.decoder)


def _import_nvimgcodec() -> Any:
    """The library.

    Raises:
        DecoderUnavailable: it is not installed, or does not load.
    """
    # It writes a line on stderr for every picture that it declines; those are counted here.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        raise _missing_library(error) from error
    return nvimgcodec


def _missing_library(error: ImportError) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"the nvjpeg decoder cannot be used: {error}; install it: pip install 'oddsight[nvjpeg]', or set decode.backend to cpu"
    )


def _open_device(name: str) -> tuple[Driver, Any]:
    """The GPU that frames are fitted on, and a stream there.

    Raises:
        DecoderUnavailable: there is no PyTorch with CUDA, no driver, or no GPU; says which.
    """
    try:
        import torch
    except ImportError as error:
        raise _missing_library(error) from error
    lacking = lacking_cuda(torch)
    if lacking is not None:
        raise DecoderUnavailable(f"the nvjpeg decoder needs {lacking}; or set decode.backend to cpu")
    driver = CudaDriver(name)
    try:
        return driver, driver.stream()
    except Exception as error:  # whatever PyTorch raises where the GPU is full or belongs to somebody else
        raise _no_gpu(error) from error


def _no_gpu(error: Exception) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"the nvjpeg decoder cannot be used: no GPU it can decode on: {_reason(error)}; check the driver with nvidia-smi, or "
        "set decode.backend to cpu"
    )


def _calls(jpegs: list[_Jpeg]) -> Iterator[list[_Jpeg]]:
    """The pictures in their order, no more than ``MAX_CALL_PX`` together."""
    call: list[_Jpeg] = []
    size_px = 0
    for jpeg in jpegs:
        size_px += jpeg.width_px * jpeg.height_px
        if call and size_px > MAX_CALL_PX:
            yield call
            call, size_px = [], jpeg.width_px * jpeg.height_px
        call.append(jpeg)
    if call:
        yield call


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
