"""Plans in a bundle: written with what they were made for, and read only if that is what is here and they are as they were."""

from deploy.bundle import ONNX_NAME, Bundle, replace_file, sha256
from deploy.engine import Precision
from deploy.errors import BundleCorrupt, EngineRefused, PlanStale
from deploy.variants import Fingerprint, Variant, differences, find_variant, variant_folder, write_variant

_PLAN_NAME = "plan"


def write_plan(bundle: Bundle, variant: Variant, plan: bytes) -> None:
    """Keep a plan, which ``variant`` describes. The record is written last, so that it never names a plan that is not there."""
    folder = variant_folder(bundle, variant.engine, variant.precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _PLAN_NAME, plan)
    write_variant(bundle, variant)


def read_plan(bundle: Bundle, engine: str, precision: Precision, here: Fingerprint) -> tuple[Variant, bytes]:
    """A plan that may be loaded, with its record. ``here``: what plans of this engine depend on, as it is on this machine.

    Raises:
        EngineRefused: there is none.
        PlanStale: it was made for something else; names each difference.
        BundleCorrupt: it is not what was written: it is native code, and nothing else may be loaded.
    """
    build = _command(bundle, engine, precision)
    variant = find_variant(bundle, engine, precision)
    if variant is None or variant.plan is None:
        raise EngineRefused(f"{engine} in {precision} has no plan in this bundle; build it: {build}")
    expected = {"model_sha256": variant.model_sha256, **{name: variant.fingerprint.get(name, "") for name in here}}
    if changed := differences(expected, {"model_sha256": bundle.manifest.files[ONNX_NAME], **here}):
        raise PlanStale(
            f"the plan of {engine} in {precision} is for something else: {'; '.join(changed)}; build it again: {build}"
        )
    return variant, _verified(bundle, variant, variant.plan.sha256, build)


def _command(bundle: Bundle, engine: str, precision: Precision) -> str:
    """What builds the plan; in ``int8`` from footage, unless a graph was made from some before."""
    made = precision != "int8" or (variant_folder(bundle, "graph", precision) / ONNX_NAME).is_file()
    frames = "" if made else " --frames FOLDER"
    return f"oddsight-deploy build {bundle.path} --engine {engine} --precision {precision}{frames}"


def _verified(bundle: Bundle, variant: Variant, expected: str, build: str) -> bytes:
    path = variant_folder(bundle, variant.engine, variant.precision) / _PLAN_NAME
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BundleCorrupt(f"{path}: {error.strerror}; build it again: {build}") from error
    if sha256(plan) != expected:
        raise BundleCorrupt(
            f"{path}: sha256 is {sha256(plan)}, its record says {expected}; do not use it, build it again: {build}"
        )
    return plan
