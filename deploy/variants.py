"""What was tried on this machine: one folder for each engine and precision, in the bundle's ``engines``.

    engines/openvino-bf16/engine.json    fingerprint and gate
    engines/tensorrt-f16/plan            native code for one GPU, and beside it its engine.json with its sha256

Kept apart from ``bundle.json``, which the trainer writes and which is the same on every machine.
"""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.bundle import ONNX_NAME, Bundle, replace_file
from deploy.engine import Precision
from deploy.errors import BundleCorrupt, EngineRefused
from deploy.footage import FootageCard
from deploy.gate import Gate
from deploy.tensorrt.options import BuildOptions

ENGINES_FOLDER = "engines"
_RECORD_NAME = "engine.json"

_Record = TypeVar("_Record", bound=BaseModel)

Fingerprint = dict[str, str]
"""What an engine's scores depend on besides the bundle: library, version, device, precision."""


class Plan(BaseModel):
    """What is known of a plan, which lies beside the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    """A plan is native code: nothing else may be loaded."""
    graph_sha256: str
    """Of the graph that it was built from: the bundle's own, or one of another precision made from it."""
    options: BuildOptions
    products: dict[str, int]
    """Type -> how many convolutions and matrix products are in it, as the library understood the graph."""
    footage: FootageCard | None = None
    """What the graph was made from besides the model; None: nothing."""


class Variant(BaseModel):
    """``engine.json``: an engine of one precision as it was found on a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    precision: Precision
    model_sha256: str
    """Of the serving graph that it was made from."""
    fingerprint: Fingerprint
    gate: Gate | None = None
    """None: built, and not tried yet."""
    plan: Plan | None = None
    """For engines that are built before they are loaded."""


def write_variant(bundle: Bundle, variant: Variant) -> Path:
    """Keep what was found; an earlier find of the same engine and precision is replaced."""
    folder = variant_folder(bundle, variant.engine, variant.precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _RECORD_NAME, (variant.model_dump_json(indent=2) + "\n").encode())
    return folder


def read_variants(bundle: Bundle) -> list[Variant]:
    """All that is kept, in order of name; of graphs that the bundle no longer holds as well.

    Raises:
        BundleCorrupt: a record cannot be read.
    """
    return [_read(path) for path in sorted((bundle.path / ENGINES_FOLDER).glob(f"*/{_RECORD_NAME}"))]


def passed_variant(bundle: Bundle, engine: str, precision: Precision, fingerprint: Fingerprint) -> Variant:
    """The record of an engine that may be put to work here.

    Raises:
        EngineRefused: it was never tried, it failed, or something it depends on has changed since; names each difference.
        BundleCorrupt: its record cannot be read.
    """
    variant = find_variant(bundle, engine, precision)
    again = f"try it: oddsight-deploy verify {bundle.path} --engine {engine} --precision {precision}"
    if variant is None or variant.gate is None:
        raise EngineRefused(f"{engine} in {precision} has not been tried with this bundle; {again}")
    if variant.gate.failures:
        raise EngineRefused(f"{engine} in {precision} was refused: {'; '.join(variant.gate.failures)}; use f32")
    expected = {"model_sha256": variant.model_sha256, **variant.fingerprint}
    found = {"model_sha256": bundle.manifest.files[ONNX_NAME], **fingerprint}
    if changed := differences(expected, found):
        raise EngineRefused(f"{engine} in {precision} was tried elsewhere: {'; '.join(changed)}; {again}")
    return variant


def find_variant(bundle: Bundle, engine: str, precision: Precision) -> Variant | None:
    """The record of an engine; None if nothing was ever kept of it.

    Raises:
        BundleCorrupt: it cannot be read.
    """
    path = variant_folder(bundle, engine, precision) / _RECORD_NAME
    return _read(path) if path.is_file() else None


def differences(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """What differs, one sentence each, in order of name; none: they are equal."""
    return [
        f"{name} was {expected.get(name)}, is {found.get(name)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def variant_folder(bundle: Bundle, engine: str, precision: Precision) -> Path:
    """Where what belongs to an engine of one precision lies."""
    return bundle.path / ENGINES_FOLDER / f"{engine}-{precision}"


def read_record(kind: type[_Record], path: Path, again: str) -> _Record:
    """A record that was kept in a bundle; ``again``: the command that makes it.

    Raises:
        BundleCorrupt: it cannot be read.
    """
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise BundleCorrupt(f"{path}: {reason}; delete it and run {again} again") from error


def _read(path: Path) -> Variant:
    return read_record(Variant, path, "oddsight-deploy verify")
