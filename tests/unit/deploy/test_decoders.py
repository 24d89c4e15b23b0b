"""One contract for all decoders of images: the one on the CPU, and nvImageCodec's as a fake, on its CPU code, and on a GPU."""

import enum
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import BadFrame, ConfigError, DecoderFailed, DecoderUnavailable
from deploy.gpu import nvjpeg
from deploy.gpu.driver import missing_cuda
from deploy.gpu.nvjpeg import NvJpegDecoder
from deploy.gpu.resize import GpuResizer
from deploy.image import (
    MAX_IMAGE_BYTES,
    AnyFrame,
    CpuDecoder,
    DecodedFrame,
    DeviceFrame,
    Frame,
    ImageDecoder,
    decode_image,
    encode_jpeg,
)
from deploy.registry import DECODERS, GPU_DECODERS, load_decoder
from deploy.spec import ClipSpec
from tests.harness import fake_nvimgcodec
from tests.harness.host_driver import HostEvent
from tests.unit.deploy.test_image import BGR, GRAY, JPEG, PNG, cmyk_jpeg, encode, jpeg_header, jpeg_segment, sample_image

ON_DEVICE = ", on device"
"""End of the names of decoders whose frames stay there."""
SPECS = {"gray": GRAY, "bgr": BGR}
ROTATED = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
GOOD = {
    "jpeg": JPEG,
    "jpeg-with-zeros-behind-it": JPEG + bytes(7),
    "progressive": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "gray-jpeg": encode(".jpg", sample_image()[:, :, 0]),
    "turned": JPEG[:2] + jpeg_segment(0xE1, ROTATED) + JPEG[2:],
    "cmyk": cmyk_jpeg(),
    "smaller": encode_jpeg(sample_image(9, 7), 95),
    "two-and-a-half-times": encode_jpeg(sample_image(60, 80), 95),
    "five-times-and-a-bit": encode_jpeg(sample_image(131, 175), 95),
    "png": PNG,
    "16-bit-png": encode(".png", sample_image().astype(np.uint16) * 257),
}
BAD = {
    "nothing": b"",
    "text": b"hello",
    "gif": b"GIF89a" + bytes(50),
    "too-long": JPEG + bytes(MAX_IMAGE_BYTES),
    "too-many-pixels": b"\xff\xd8" + jpeg_header(30_000, 30_000) + b"\xff\xd9",
    "no-pixels": b"\xff\xd8" + jpeg_header(0, 10) + b"\xff\xd9",
    "no-header": b"\xff\xd8\xff\xd9",
    "header-alone": b"\xff\xd8" + jpeg_header(64, 48) + b"\xff\xd9",
    "cut-jpeg": JPEG[:-40],
    "cut-png": PNG[:-40],
}


class LibrarysOwnCpuDecoder(NvJpegDecoder):
    """The real nvImageCodec with its code for CPUs, which needs no driver: all but nvJPEG itself is tried."""

    def _open(self, stack: ExitStack, threads: int) -> Any:
        library: Any = self._library
        decoder = library.Decoder(
            device_id=library.NVIMGCODEC_DEVICE_CPU_ONLY, backends=[library.Backend(library.BackendKind.CPU_ONLY)]
        )
        return stack.enter_context(decoder)


def opened(kind: str, spec: ClipSpec) -> ImageDecoder:
    on_device = kind.endswith(ON_DEVICE)
    if kind.startswith("library"):
        pytest.importorskip("nvidia.nvimgcodec", reason="no nvImageCodec: pip install 'oddsight[nvjpeg]'")
        return LibrarysOwnCpuDecoder(spec, threads=2, on_device=on_device)
    if kind.startswith("gpu"):
        try:
            return NvJpegDecoder(spec, threads=2, on_device=on_device)
        except DecoderUnavailable as error:
            pytest.skip(str(error))
    return load_decoder("cpu" if kind == "cpu" else "nvjpeg", spec, threads=2, on_device=on_device)


@pytest.fixture(
    params=[
        *("cpu", "fake", "fake" + ON_DEVICE, "library", "library" + ON_DEVICE),
        *(pytest.param(kind, marks=pytest.mark.gpu) for kind in ("gpu", "gpu" + ON_DEVICE)),
    ]
)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param.startswith("fake"):
        fake_nvimgcodec.install(monkeypatch)
    if request.param.startswith("library"):
        fake_nvimgcodec.make_up_device(monkeypatch)
    return str(request.param)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> ClipSpec:
    return SPECS[request.param]


@pytest.fixture
def decoder(kind: str, spec: ClipSpec) -> Iterator[ImageDecoder]:
    decoder = opened(kind, spec)
    yield decoder
    decoder.close()


def told(result: DecodedFrame[AnyFrame] | BadFrame) -> str:
    return result.reason if isinstance(result, BadFrame) else "decoded"


def on_host(frame: AnyFrame) -> Frame:
    return frame.on_host() if isinstance(frame, DeviceFrame) else frame


def on_the_cpu(encoded: bytes, spec: ClipSpec) -> str:
    try:
        decode_image(encoded, spec)
    except BadFrame as error:
        return error.reason
    return "decoded"


def test_frames_nearly_equal_the_reference(decoder: ImageDecoder, spec: ClipSpec, kind: str) -> None:
    for (name, encoded), found in zip(GOOD.items(), decoder.decode(list(GOOD.values())), strict=True):
        expected = decode_image(encoded, spec)
        assert isinstance(found, DecodedFrame), name
        assert (found.width_px, found.height_px) == (expected.width_px, expected.height_px), name
        assert isinstance(found.frame, DeviceFrame) == kind.endswith(ON_DEVICE), name
        frame = on_host(found.frame)
        assert (frame.shape, frame.dtype) == (spec.frame_shape, np.uint8), name
        difference = np.abs(frame.astype(int) - expected.frame)
        assert difference.mean() <= 1, name
        assert difference.max() <= 6, name


def test_refuses_for_the_same_reasons(decoder: ImageDecoder, spec: ClipSpec) -> None:
    expected = {name: on_the_cpu(encoded, spec) for name, encoded in BAD.items()}
    assert "decoded" not in expected.values()
    assert {name: told(decoder.decode([encoded])[0]) for name, encoded in BAD.items()} == expected


def test_a_refusal_keeps_no_image(decoder: ImageDecoder) -> None:
    results = decoder.decode(list(BAD.values()))
    # A traceback keeps the frames of the calls, and those keep the images.
    assert [result.__traceback__ for result in results if isinstance(result, BadFrame)] == [None] * len(BAD)


@pytest.mark.parametrize("whole", [JPEG, PNG], ids=["jpeg", "png"])
def test_rejects_truncated_image(decoder: ImageDecoder, whole: bytes) -> None:
    results = decoder.decode([whole[:cut] for cut in range(0, len(whole), 3)])
    assert "decoded" not in set(map(told, results))


def test_bad_image_hurts_no_other(decoder: ImageDecoder, spec: ClipSpec) -> None:
    sides = range(24, 64)
    images = [encode((".jpg", ".png")[side % 2], sample_image(side, side + 8)) for side in sides]
    for at in range(0, 40, 5):
        images[at] = list(BAD.values())[at % len(BAD)]
    results = decoder.decode(images)
    assert list(map(told, results)) == [on_the_cpu(encoded, spec) for encoded in images]
    sizes = {at: (each.width_px, each.height_px) for at, each in enumerate(results) if isinstance(each, DecodedFrame)}
    assert sizes == {at: (side + 8, side) for at, side in enumerate(sides) if at % 5}


def test_empty_call(decoder: ImageDecoder) -> None:
    assert decoder.decode([]) == []


def test_describe_and_close_twice(kind: str, decoder: ImageDecoder) -> None:
    assert decoder.describe()["backend"] == decoder.name == ("cpu" if kind == "cpu" else "nvjpeg")
    assert {"version", "device"} <= decoder.describe().keys()
    decoder.close()
    decoder.close()


@pytest.fixture(scope="module")
def lasting() -> Iterator[dict[str, ImageDecoder]]:
    """Decoders for many examples; hypothesis has no patience for new ones."""
    with pytest.MonkeyPatch.context() as patch:
        fake_nvimgcodec.install(patch)
        decoders: dict[str, ImageDecoder] = {
            "cpu": CpuDecoder(BGR, threads=2),
            "fake": NvJpegDecoder(BGR, threads=2),
            "fake" + ON_DEVICE: NvJpegDecoder(BGR, threads=2, on_device=True),
        }
    yield decoders
    for decoder in decoders.values():
        decoder.close()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real image with some bytes overwritten, perhaps cut."""
    content = bytearray(draw(st.sampled_from([JPEG, PNG, GOOD["progressive"]])))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[at] = byte
    return bytes(content[: draw(st.integers(0, len(content)))])


@settings(deadline=None)
@given(images=st.lists(st.just(JPEG) | damaged() | st.binary(max_size=60).map(b"\xff\xd8\xff".__add__), max_size=5))
@pytest.mark.parametrize("kind", ["cpu", "fake", "fake" + ON_DEVICE])
def test_any_bytes_give_frame_or_refusal(lasting: dict[str, ImageDecoder], kind: str, images: Sequence[bytes]) -> None:
    results = lasting[kind].decode(images)
    assert len(results) == len(images)
    for encoded, result in zip(images, results, strict=True):
        assert told(result) in {"decoded", "empty", "unsupported_type", "bad_header", "undecodable", "damaged", "too_large"}
        assert encoded != JPEG or told(result) == "decoded"
        assert isinstance(result, BadFrame) or on_host(result.frame).shape == BGR.frame_shape


def test_rejects_unknown_decoder() -> None:
    with pytest.raises(ConfigError, match=r"decode\.backend must be one of cpu, nvjpeg, got 'magic'"):
        load_decoder("magic", GRAY, threads=1)


def test_only_gpu_decoders_keep_frames_there() -> None:
    assert {"nvjpeg"} == GPU_DECODERS <= set(DECODERS)
    with pytest.raises(ConfigError, match=r"decode\.backend must be one of nvjpeg for frames that stay on the GPU, got 'cpu'"):
        load_decoder("cpu", GRAY, threads=1, on_device=True)


class TestNvJpeg:
    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        return fake_nvimgcodec.install(monkeypatch)

    @pytest.fixture
    def decoder(self, library: ModuleType) -> Iterator[ImageDecoder]:
        decoder = load_decoder("nvjpeg", GRAY, threads=2)
        library.calls.clear()
        yield decoder
        decoder.close()

    @pytest.fixture
    def on_device(self, library: ModuleType) -> Iterator[ImageDecoder]:
        decoder = load_decoder("nvjpeg", GRAY, threads=2, on_device=True)
        yield decoder
        decoder.close()

    def test_one_call_for_all_jpegs(self, library: ModuleType, decoder: ImageDecoder) -> None:
        assert decoders(decoder.decode([JPEG, PNG, JPEG, GOOD["progressive"]])) == ["nvjpeg", "cpu", "nvjpeg", "nvjpeg"]
        assert library.calls == [3]

    def test_large_images_need_several_calls(
        self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nvjpeg, "MAX_CALL_PX", 2 * 48 * 64)
        small, large = encode_jpeg(sample_image(16, 16), 90), encode_jpeg(sample_image(200, 200), 90)
        assert decoders(decoder.decode([JPEG, JPEG, small, large, small, JPEG])) == ["nvjpeg"] * 6
        assert library.calls == [2, 1, 1, 2]

    def test_declined_image_goes_to_opencv(
        self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library, "declines", GOOD["progressive"].__eq__)
        assert decoders(decoder.decode([GOOD["progressive"], JPEG])) == ["cpu", "nvjpeg"]

    def test_wrong_size_goes_to_opencv(self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "distort", lambda pixels: pixels[: 47 if len(pixels) == 48 else None].astype(np.uint8))
        [found] = decoder.decode([JPEG])
        assert isinstance(found, DecodedFrame)
        assert found.decoder == "cpu"
        np.testing.assert_array_equal(on_host(found.frame), decode_image(JPEG, GRAY).frame)

    def test_failed_call_goes_to_opencv(
        self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library, "poisonous", GOOD["progressive"].__eq__)
        assert decoders(decoder.decode([JPEG, GOOD["progressive"]])) == ["cpu", "cpu"]
        assert decoders(decoder.decode([JPEG])) == ["nvjpeg"]

    def test_lost_gpu_is_an_error(self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "lost", True)
        with pytest.raises(DecoderFailed, match="GPU decoding failed: CUDA error: the launch failed; restart"):
            decoder.decode([JPEG])

    def test_gpu_without_output_is_an_error(
        self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library, "declines", lambda _encoded: True)
        with pytest.raises(DecoderFailed, match="returns no image, or none of the right size"):
            decoder.decode([JPEG, PNG])

    def test_failed_resize_goes_to_opencv(self, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
        fitted = GpuResizer.fit

        def only_small_ones(self: GpuResizer, images: Sequence[Any]) -> list[DeviceFrame]:
            if len(images) > 1:
                raise RuntimeError("CUDA out of memory")
            return fitted(self, images)

        monkeypatch.setattr(GpuResizer, "fit", only_small_ones)
        assert decoders(decoder.decode([JPEG, JPEG])) == ["cpu", "cpu"]
        assert decoders(decoder.decode([JPEG])) == ["nvjpeg"]
        monkeypatch.setattr(GpuResizer, "fit", fails)
        with pytest.raises(DecoderFailed, match="GPU decoding failed: CUDA error: out of luck; restart"):
            decoder.decode([JPEG])

    def test_all_frames_stay_on_device(self, on_device: ImageDecoder) -> None:
        results = on_device.decode([JPEG, PNG, b"", JPEG, GOOD["five-times-and-a-bit"]])
        assert decoders(results) == ["nvjpeg", "cpu", "empty", "nvjpeg", "nvjpeg"]
        frames = [result.frame for result in results if isinstance(result, DecodedFrame)]
        assert [type(frame) for frame in frames] == [DeviceFrame] * 4
        np.testing.assert_array_equal(on_host(frames[1]), decode_image(PNG, GRAY).frame)

    def test_device_frames_equal_host_frames(self, decoder: ImageDecoder, on_device: ImageDecoder) -> None:
        pairs = zip(decoder.decode(list(GOOD.values())), on_device.decode(list(GOOD.values())), strict=True)
        for found, expected in pairs:
            assert isinstance(found, DecodedFrame)
            assert isinstance(expected, DecodedFrame)
            assert type(found.frame) is np.ndarray
            np.testing.assert_array_equal(on_host(expected.frame), found.frame)

    def test_failed_upload_is_an_error(self, on_device: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GpuResizer, "to_device", fails)
        assert decoders(on_device.decode([JPEG])) == ["nvjpeg"]
        with pytest.raises(DecoderFailed, match="nvjpeg: frames cannot be copied to the GPU: CUDA error: out of luck; restart"):
            on_device.decode([JPEG, PNG])

    def test_images_live_until_synchronized(
        self, library: ModuleType, decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive = []
        wait = HostEvent.synchronize
        monkeypatch.setattr(HostEvent, "synchronize", lambda event: (alive.append(len(library.images)), wait(event)))
        library.driver.operations.clear()
        decoder.decode([JPEG, GOOD["smaller"], JPEG])
        (_, stream), (_, done, recorded_on), (_, waited_for) = library.driver.operations
        assert [operation[0] for operation in library.driver.operations] == ["on", "record", "synchronize"]
        assert (recorded_on, waited_for) == (stream, done)
        assert alive == [3]
        assert len(library.images) == 0

    def test_close_frees_the_gpu(self, library: ModuleType, decoder: ImageDecoder) -> None:
        decoder.close()
        assert library.calls == [-1]

    def test_missing_library_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nvidia", None)
        with pytest.raises(DecoderUnavailable, match=r"install it: pip install 'oddsight\[nvjpeg\]'"):
            load_decoder("nvjpeg", GRAY, threads=1)

    def test_missing_torch_names_the_extra(self, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(DecoderUnavailable, match=r"install it: pip install 'oddsight\[nvjpeg\]'"):
            load_decoder("nvjpeg", GRAY, threads=1)

    @pytest.mark.parametrize(
        ("cuda", "lacks"),
        [
            (None, r"PyTorch with CUDA; the installed 2\S* has none"),
            ("13.0", "an NVIDIA GPU with its driver; CUDA finds none here"),
        ],
    )
    def test_torch_without_cuda(self, library: ModuleType, monkeypatch: pytest.MonkeyPatch, cuda: str | None, lacks: str) -> None:
        monkeypatch.setattr("torch.version.cuda", cuda)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr(nvjpeg, "missing_cuda", missing_cuda)
        with pytest.raises(DecoderUnavailable, match=f"^the nvjpeg decoder needs {lacks}; or set decode.backend to cpu$"):
            load_decoder("nvjpeg", GRAY, threads=1)

    def test_no_stream(self, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library.driver, "new_stream", fails)
        with pytest.raises(DecoderUnavailable, match=r"no GPU it can decode on: CUDA error: out of luck; check .* nvidia-smi"):
            load_decoder("nvjpeg", GRAY, threads=1)

    def test_missing_driver(self, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "has_gpu", False)
        with pytest.raises(DecoderUnavailable, match=r"no GPU it can decode on: CUDA Runtime failure: '#35'.*nvidia-smi"):
            load_decoder("nvjpeg", GRAY, threads=1)

    def test_probe_fails_at_start(self, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "declines", lambda _encoded: True)
        with pytest.raises(
            DecoderUnavailable, match=r"on it: it returns no image, or none of the right size; install nvJPEG: pip install"
        ):
            load_decoder("nvjpeg", GRAY, threads=1)
        assert library.calls == [1, -1]

    def test_resize_fails_at_start(self, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GpuResizer, "fit", fails)
        with pytest.raises(DecoderUnavailable, match="cannot decode an ordinary JPEG on it: CUDA error: out of luck"):
            load_decoder("nvjpeg", GRAY, threads=1)
        assert library.calls == [1, -1]


def fails(*_: object) -> NoReturn:
    raise RuntimeError("CUDA error: out of luck")


def decoders(results: Sequence[DecodedFrame[AnyFrame] | BadFrame]) -> list[str]:
    return [told(result) if isinstance(result, BadFrame) else result.decoder for result in results]


def test_fake_matches_real_library() -> None:
    real = pytest.importorskip("nvidia.nvimgcodec", reason="no nvImageCodec: pip install 'oddsight[nvjpeg]'")
    kinds = [
        kind for _, kind in inspect.getmembers(fake_nvimgcodec, inspect.isclass) if kind.__module__ == fake_nvimgcodec.__name__
    ]
    assert len(kinds) == 8
    for kind in kinds:
        theirs = getattr(real, kind.__name__)
        ours = kind.__members__ if issubclass(kind, enum.Enum) else members(kind)
        assert [name for name in ours if not hasattr(theirs, name)] == [], kind.__name__
    arguments = {
        "Decoder": {"max_num_cpu_threads", "backends", "options"},
        "DecodeParams": set(members(fake_nvimgcodec.DecodeParams)),
    }
    for name, words in arguments.items():
        assert [word for word in words if word not in getattr(real, name).__init__.__doc__] == []
    assert "cuda_stream" in real.Decoder.decode.__doc__
    assert isinstance(real.__version__, str)


def members(kind: type) -> list[str]:
    """What a class of the fake offers: its own attributes, and what its instances are given."""
    given = [
        name for name in inspect.signature(kind).parameters if kind in (fake_nvimgcodec.DecodeParams, fake_nvimgcodec.Backend)
    ]
    offered = [name for name in vars(kind) if name in {"__enter__", "__exit__"} or not name.startswith("_")]
    return given + offered
