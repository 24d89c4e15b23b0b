"""The bundle: a folder that carries a trained model from training to serving.

    bundle.json            manifest: format, model, clip spec, metrics, versions, sha256 of every other file
    weights.safetensors    the network's weights, for the torch engines
    model.onnx             the serving graph, for all other engines: uint8 clips (and state) in; score, heat map (and state) out
    calibration.json       what normal footage showed of the scores; thresholds for any budget of false events follow from it
    profile.safetensors    the profile of cameras that have none of their own, if the model takes profiles
    golden.safetensors     clips with the reference's outputs, to validate float32 engines
    sequences.safetensors  footage with the reference's scores, to validate engines of other precisions
    bundle.sig             signature of the manifest, if it was signed, see :mod:`deploy.signing`
    engines/               built and validated on this machine, see :mod:`deploy.records`; not in the manifest

Every file is checked against its sha256 before it is used, and names no further files. No file is, or contains, a pickle.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.calibration import Calibration
from deploy.errors import BundleCorrupt, BundleError, BundleIncompatible, BundleUntrusted, first_line, validation_line
from deploy.files import open_inside, read_inside
from deploy.signing import require_signature, sign
from deploy.spec import ClipSpec

FORMAT: Final = 2
MANIFEST_NAME = "bundle.json"
SIGNATURE_NAME = "bundle.sig"
WEIGHTS_NAME = "weights.safetensors"
ONNX_NAME = "model.onnx"
CALIBRATION_NAME = "calibration.json"
GOLDEN_NAME = "golden.safetensors"
SEQUENCES_NAME = "sequences.safetensors"
PROFILE_NAME = "profile.safetensors"

DEFAULT_BUNDLE = Path(__file__).parent / "default_bundle"
"""The bundle that is installed with Oddsight: it scores the demo, and cameras that are enrolled without a bundle of one's own."""

_Model = TypeVar("_Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelCard(_Frozen):
    """The network that the weights belong to."""

    kind: str  # name in the entry point group oddsight.networks
    config: dict[str, Any]  # arguments of the network's factory


class Manifest(_Frozen):
    """``bundle.json``."""

    format: Literal[2]
    model_id: str
    model: ModelCard
    spec: ClipSpec
    metrics: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str]  # sha256 (hex) of every other file of the bundle


@dataclass(frozen=True, slots=True)
class GoldenClips:
    """Clips with the reference's outputs. The states are None for a model without a state.

    With profiles, clips of the same camera have different ones.
    """

    clips: NDArray[np.uint8]  # (N, T, H, W, C)
    score: NDArray[np.float32]  # (N,)
    heatmap: NDArray[np.float32]  # (N, h, w)
    state: NDArray[np.float32] | None = None  # (N, *state_shape)
    profile: NDArray[np.float32] | None = None  # (N, P); None for a model without profiles
    next_state: NDArray[np.float32] | None = None  # (N, *state_shape)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Get one from :func:`read_bundle`."""

    path: Path
    manifest: Manifest
    calibration: Calibration
    default_profile: NDArray[np.float32] | None = None
    """The profile (P,) of cameras that have none of their own; None if the model takes no profiles."""

    @property
    def spec(self) -> ClipSpec:
        return self.manifest.spec

    @property
    def model_id(self) -> str:
        """Model kind and hash of config and weights, part of every event."""
        return self.manifest.model_id

    def file(self, name: str) -> Path:
        """Path of a verified file. Raises BundleCorrupt if the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleCorrupt(f"{self.path}: {MANIFEST_NAME} lists no {name}; make the bundle again with oddsight-train")
        return self.path / name


def read_bundle(path: Path, trusted_keys: Path | None = None) -> Bundle:
    """Read and verify the bundle in ``path``; with ``trusted_keys``, a PEM file, one of these must have signed it.

    Raises:
        BundleCorrupt: it is not a bundle, or a file is missing or differs from its sha256.
        BundleIncompatible: it has another format.
        BundleUntrusted: it is not signed by a trusted key.
        ConfigError: ``trusted_keys`` cannot be read.
    """
    manifest = _read_manifest(path, trusted_keys)
    _verify_files(path, manifest)
    calibration_path = path / CALIBRATION_NAME
    calibration = _parse(Calibration, _parse_json(_read_file(path, CALIBRATION_NAME), calibration_path), calibration_path)
    return Bundle(path, manifest, calibration, _read_default_profile(path, manifest))


def write_bundle(
    path: Path,
    *,
    model: ModelCard,
    spec: ClipSpec,
    calibration: Calibration,
    files: Mapping[str, bytes],
    metrics: Mapping[str, Any],
    versions: Mapping[str, str],
) -> Bundle:
    """Write a bundle and read it back verified.

    ``files`` must hold the weights, the ONNX graph and the golden clips. The manifest is written last, so that an interrupted
    write leaves no readable bundle of old and new files.
    """
    path.mkdir(parents=True, exist_ok=True)
    contents = {**files, CALIBRATION_NAME: _json_bytes(calibration.model_dump())}
    for name, content in contents.items():
        replace_file(path / name, content)
    manifest = Manifest(
        format=FORMAT,
        model_id=f"{model.kind}-{sha256(_json_bytes(model.config) + files[WEIGHTS_NAME])[:12]}",
        model=model,
        spec=spec,
        metrics=dict(metrics),
        versions=dict(versions),
        files={name: sha256(content) for name, content in sorted(contents.items())},
    )
    _write_manifest(path, manifest)
    return read_bundle(path)


def replace_calibration(bundle: Bundle, calibration: Calibration) -> Bundle:
    """Write another calibration and read the bundle back verified."""
    content = _json_bytes(calibration.model_dump())
    files = {**bundle.manifest.files, CALIBRATION_NAME: sha256(content)}
    manifest = bundle.manifest.model_copy(update={"files": files})
    replace_file(bundle.path / CALIBRATION_NAME, content)
    _write_manifest(bundle.path, manifest)
    return read_bundle(bundle.path)


def sign_bundle(path: Path, key: Path) -> None:
    """Verify a bundle and sign it as it is, with the private key in a PEM file. Raises as :func:`read_bundle`."""
    bundle = read_bundle(path)
    require_writable(bundle, "it can be signed only")
    replace_file(path / SIGNATURE_NAME, sign(_read_file(path, MANIFEST_NAME), key))


def signed_by(path: Path, trusted_keys: Path) -> str:
    """The fingerprint of the trusted key that signed a bundle. Raises as :func:`read_bundle`."""
    read_bundle(path, trusted_keys)
    return _require_signature(path, _read_file(path, MANIFEST_NAME), trusted_keys)


def require_writable(bundle: Bundle, consequence: str) -> None:
    """Raise a BundleError if the folder cannot be written to; to be called before long work whose result belongs there.

    ``consequence`` completes the message: what could not be kept, and what to do on a copy of the bundle.
    """
    if not os.access(bundle.path, os.W_OK):
        raise BundleError(f"{bundle.path}: cannot be written to, so {consequence} on a copy of it")


def golden_bytes(golden: GoldenClips) -> bytes:
    """Content of ``golden.safetensors``."""
    from safetensors.numpy import save

    tensors = {field.name: getattr(golden, field.name) for field in fields(golden)}
    # safetensors writes the memory as it is and ignores strides.
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items() if tensor is not None})


def read_golden(bundle: Bundle) -> GoldenClips:
    """The bundle's golden clips. Raises BundleCorrupt if they are not clips of its spec."""
    spec = bundle.spec
    kinds: dict[str, TensorKind] = {
        "clips": (np.uint8, (None, *spec.clip_shape)),
        "score": (np.float32, (None,)),
        "heatmap": (np.float32, (None, None, None)),
    }
    if spec.state_shape is not None:
        kinds |= dict.fromkeys(("state", "next_state"), (np.float32, (None, *spec.state_shape)))
    if spec.profile_size:
        kinds["profile"] = (np.float32, (None, spec.profile_size))
    tensors = read_tensors(bundle, GOLDEN_NAME, kinds)
    counts = {len(tensor) for tensor in tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise BundleCorrupt(f"{bundle.path / GOLDEN_NAME}: each array must have a row for each clip, got {sorted(counts)} rows")
    return GoldenClips(**tensors)


TensorKind = tuple[type[np.generic], tuple[int | None, ...]]
"""What an array must be: its type, and its shape with None for a side of any length."""


def read_tensors(bundle: Bundle, name: str, kinds: Mapping[str, TensorKind]) -> dict[str, NDArray[Any]]:
    """The arrays of these names and kinds in a safetensors file of the bundle. Raises BundleCorrupt if it lacks one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = bundle.file(name)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BundleCorrupt(f"{path}: {first_line(error)}; copy the bundle again, whole") from error
    for each, (dtype, shape) in kinds.items():
        found = tensors.get(each)
        fits = found is not None and found.ndim == len(shape) and all(map(_side_fits, found.shape, shape))
        if found is None or not fits or found.dtype != dtype:
            actual = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise BundleCorrupt(f"{path}: {each} must be {dtype.__name__} {shape}, got {actual}; make the bundle again")
    return {each: tensors[each] for each in kinds}


def _side_fits(side: int, expected: int | None) -> bool:
    return expected in (None, side)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest; a signature of the one before is none of this."""
    (path / SIGNATURE_NAME).unlink(missing_ok=True)
    replace_file(path / MANIFEST_NAME, _json_bytes(manifest.model_dump()))


def _require_signature(path: Path, manifest: bytes, trusted_keys: Path) -> str:
    if not (path / SIGNATURE_NAME).exists():
        raise BundleUntrusted(
            f"{path}: is not signed, and only bundles that a key in {trusted_keys} has signed are trusted; "
            f"have it signed: oddsight-deploy sign {path} --key KEY"
        )
    return require_signature(manifest, _read_file(path, SIGNATURE_NAME), trusted_keys, path)


def _read_manifest(path: Path, trusted_keys: Path | None) -> Manifest:
    if not (path / MANIFEST_NAME).exists():
        raise BundleCorrupt(
            f"{path}: not a bundle ({MANIFEST_NAME} is missing); make one: oddsight-train fit --data DIR --out {path}"
        )
    text = _read_file(path, MANIFEST_NAME)
    if trusted_keys is not None:
        _require_signature(path, text, trusted_keys)
    content = _parse_json(text, path / MANIFEST_NAME)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        actual = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise BundleIncompatible(f"{path / MANIFEST_NAME}: format must be {FORMAT}, got {actual!r}; make the bundle again")
    return _parse(Manifest, content, path / MANIFEST_NAME)


def _verify_files(path: Path, manifest: Manifest) -> None:
    for name in (WEIGHTS_NAME, ONNX_NAME, CALIBRATION_NAME, GOLDEN_NAME):
        if name not in manifest.files:
            raise BundleCorrupt(f"{path}: {MANIFEST_NAME} lists no {name}; make the bundle again with oddsight-train")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise BundleCorrupt(f"{path}: {MANIFEST_NAME} names {name!r}; a bundle's files must be in its own folder")
        actual = _file_sha256(path, name)
        if actual != expected:
            raise BundleCorrupt(
                f"{path / name}: sha256 is {actual}, {MANIFEST_NAME} says {expected}; copy the bundle again, whole"
            )
    # Tensors outside of the graph would be files that no sum covers; this word is the key of their path.
    if b"location" in read_inside(path, ONNX_NAME):
        raise BundleCorrupt(f"{path / ONNX_NAME}: names files with external data; make the bundle again with oddsight-train")


def _file_sha256(path: Path, name: str) -> str:
    try:
        with open_inside(path, name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleCorrupt(f"{path / name}: {reason}; copy the bundle again, whole") from error


def _read_default_profile(path: Path, manifest: Manifest) -> NDArray[np.float32] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    size = manifest.spec.profile_size
    if not size:
        return None
    if PROFILE_NAME not in manifest.files:
        raise BundleCorrupt(f"{path}: {MANIFEST_NAME} lists no {PROFILE_NAME}; make the bundle again with oddsight-train")
    try:
        values = load_file(path / PROFILE_NAME)["profile"]
    except (SafetensorError, KeyError) as error:
        raise BundleCorrupt(f"{path / PROFILE_NAME}: holds no profile ({error}); make the bundle again") from error
    if values.shape != (size,) or values.dtype != np.float32 or not np.isfinite(values).all():
        raise BundleCorrupt(f"{path / PROFILE_NAME}: must hold {size} finite float32 values, got {values.dtype} {values.shape}")
    return values


def _parse(kind: type[_Model], content: Any, path: Path) -> _Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise BundleCorrupt(f"{path}: {validation_line(error)}") from error


def _read_file(folder: Path, name: str) -> bytes:
    try:
        return read_inside(folder, name)
    except OSError as error:
        raise BundleCorrupt(f"{folder / name}: {error.strerror}; copy the bundle again, whole") from error


def _parse_json(text: bytes, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested without end
        raise BundleCorrupt(f"{path}: {error}; copy the bundle again, whole") from error


def _json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def sha256(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def unwritable_folder(path: Path) -> Path | None:
    """What keeps ``path`` from being created or replaced: its nearest existing parent, if that is no folder one may write to."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    return None if parent.is_dir() and os.access(parent, os.W_OK) else parent


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: under another name first, then renamed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        temporary.write(content)
    Path(temporary.name).chmod(0o644)
    Path(temporary.name).replace(path)
