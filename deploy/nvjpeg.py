"""JPEGs decoded on an NVIDIA GPU by nvImageCodec: the second implementation of what :mod:`deploy.frames` promises.

The checks of header and size are those of :mod:`deploy.frames`, and come first. A decoded picture is copied to the host at its
full size and fitted there by the same functions as on the CPU. PNGs, JPEGs without an end marker and whatever nvImageCodec
declines are decoded by OpenCV, so that the same pictures are refused for the same reasons; each frame says who decoded it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.decoder import CpuDecoder
from deploy.errors import BadFrame, DecoderFailed, DecoderUnavailable
from deploy.frames import DecodedFrame, encode_jpeg, fit_jpeg, is_whole_jpeg, picture_size
from deploy.spec import ClipSpec

MAX_CALL_PX = 67_108_864
"""Pixels of one call, four of the largest pictures: 200 MB on the GPU and as much on the host, however long a poll is."""

_OPTIONS = ":fancy_upsampling=1"
"""Colour is interpolated between its samples, as libjpeg does it and nvJPEG by itself does not."""
_PROBE_SIDE_PX = 64


class _Jpeg(NamedTuple):
    place: int
    """Among the pictures asked for."""
    encoded: bytes
    width_px: int
    height_px: int


class NvJpegDecoder:
    """See :class:`deploy.decoder.PictureDecoder`. ``threads``: CPU threads for fitting, and for what OpenCV decodes.

    Raises:
        DecoderUnavailable: nvImageCodec is missing, or finds no GPU it can decode on.
    """

    name = "nvjpeg"

    def __init__(self, spec: ClipSpec, threads: int) -> None:
        self._spec = spec
        self._library = _import_nvimgcodec()
        self._probe = encode_jpeg(np.full((_PROBE_SIDE_PX, _PROBE_SIDE_PX, 3), 128, np.uint8), 90)
        with ExitStack() as stack:
            self._params = self._decode_params()
            self._decoder = self._open(stack, threads)
            self._cpu = CpuDecoder(spec, threads)
            stack.callback(self._cpu.close)
            self._pool = stack.enter_context(ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fit"))
            if not self._works():
                raise DecoderUnavailable(
                    "the nvjpeg decoder cannot be used: nvImageCodec finds a GPU but decodes no JPEG on it; install nvJPEG: "
                    "pip install 'oddsight[nvjpeg]', or set decode.backend to cpu"
                )
            self._stack = stack.pop_all()

    def decode(self, pictures: Sequence[bytes]) -> list[DecodedFrame | BadFrame]:
        """See :meth:`deploy.decoder.PictureDecoder.decode`."""
        found: dict[int, DecodedFrame | BadFrame] = {}
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
        found |= zip(left, self._cpu.decode([pictures[place] for place in left]), strict=True)
        return [found[place] for place in range(len(pictures))]

    def describe(self) -> dict[str, str]:
        """See :meth:`deploy.decoder.PictureDecoder.describe`."""
        version = f"nvImageCodec {self._library.__version__}"
        return {"backend": self.name, "version": version, "device": f"GPU {self._decoder.device_id}"}

    def close(self) -> None:
        """See :meth:`deploy.decoder.PictureDecoder.close`."""
        self._stack.close()

    def _open(self, stack: ExitStack, threads: int) -> Any:
        kinds = self._library.BackendKind
        # All but CPU_ONLY: nvImageCodec brings a decoder for the CPU, and would fall back on it without a word.
        backends = [self._library.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.HYBRID_CPU_GPU, kinds.GPU_ONLY)]
        try:
            decoder = self._library.Decoder(max_num_cpu_threads=threads, backends=backends, options=_OPTIONS)
        except Exception as error:  # whatever the library raises where it finds no driver or no GPU
            raise DecoderUnavailable(
                f"the nvjpeg decoder cannot be used: no GPU it can decode on: {_reason(error)}; check the driver with "
                "nvidia-smi, or set decode.backend to cpu"
            ) from error
        return stack.enter_context(decoder)

    def _decode_params(self) -> Any:
        colours, layouts = self._library.ColorSpec, self._library.SampleFormat
        gray = self._spec.colour == "gray"
        return self._library.DecodeParams(
            # A camera turned upside down is a fact of the scene, see deploy.frames.
            apply_exif_orientation=False,
            color_spec=colours.GRAY if gray else colours.SRGB,
            sample_format=layouts.I_Y if gray else layouts.I_BGR,
        )

    def _works(self) -> bool:
        """Whether an ordinary JPEG still becomes a picture."""
        try:
            return self._pictures([self._probe])[0] is not None
        except Exception:  # noqa: BLE001  whatever the library raises, it does not work
            return False

    def _decode_call(self, jpegs: list[_Jpeg]) -> dict[int, DecodedFrame | BadFrame]:
        """Frames by place; those that were declined are left out.

        Raises:
            DecoderFailed: nothing came out, nor does an ordinary JPEG any more.
        """
        reason = "it gives back no picture at all"
        try:
            pictures = self._pictures([jpeg.encoded for jpeg in jpegs])
        except Exception as error:  # noqa: BLE001  one message's bytes must not end the service; a lost GPU does, below
            pictures, reason = [None] * len(jpegs), _reason(error)
        if all(picture is None for picture in pictures) and not self._works():
            raise DecoderFailed(f"nvjpeg: the GPU decodes no more: {reason}; start again, or set decode.backend to cpu")
        fitted = zip(jpegs, self._pool.map(self._fitted, jpegs, pictures), strict=True)
        return {jpeg.place: decoded for jpeg, decoded in fitted if decoded is not None}

    def _pictures(self, encoded: list[bytes]) -> list[NDArray[np.uint8] | None]:
        """One batched call: pictures uint8 (H, W, C) on the host; None for what is declined."""
        streams = [self._stream(each) for each in encoded]
        readable = [stream for stream in streams if stream is not None]
        images = iter(self._decoder.decode(readable, params=self._params) if readable else [])
        return [None if stream is None else _on_host(next(images)) for stream in streams]

    def _stream(self, encoded: bytes) -> Any:
        try:
            return self._library.CodeStream(encoded)
        except Exception:  # noqa: BLE001  its own parser declines it; OpenCV has the last word
            return None

    def _fitted(self, jpeg: _Jpeg, picture: NDArray[np.uint8] | None) -> DecodedFrame | None:
        """None where a picture is not what its header promised: OpenCV has the last word there, too."""
        promised = (jpeg.height_px, jpeg.width_px, self._spec.channels)
        if picture is None or picture.shape != promised or picture.dtype != np.uint8:
            return None
        pixels = picture[:, :, 0] if self._spec.channels == 1 else picture
        return DecodedFrame(fit_jpeg(pixels, self._spec), jpeg.width_px, jpeg.height_px, self.name)


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
        raise DecoderUnavailable(
            f"the nvjpeg decoder cannot be used: {error}; install it: pip install 'oddsight[nvjpeg]', or set decode.backend "
            "to cpu"
        ) from error
    return nvimgcodec


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


def _on_host(image: Any) -> NDArray[np.uint8] | None:
    """A copy in the host's memory. When fitting moves to the GPU, it goes before this."""
    copy = None if image is None else image.cpu()
    return None if copy is None else np.asarray(copy)


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
