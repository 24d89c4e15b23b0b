"""Only a bundle that is as a trusted key has signed it is served."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner

from deploy.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    SIGNATURE_NAME,
    WEIGHTS_NAME,
    Bundle,
    golden_bytes,
    read_bundle,
    replace_calibration,
    sign_bundle,
    signed_by,
)
from deploy.cli import app
from deploy.errors import BundleCorrupt, BundleUntrusted, ConfigError
from streamer.config import Settings
from streamer.service import check_service
from tests.unit.deploy.test_bundle import CALIBRATION, FILES, random_golden, write


class Keys:
    """A pair of keys in files."""

    def __init__(self, folder: Path, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}-public.pem"
        self.private.write_bytes(pem(key))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def pem(key: Ed25519PrivateKey, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "ours")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "bundle", {**FILES, GOLDEN_NAME: golden_bytes(random_golden())})


@pytest.fixture
def signed(bundle: Bundle, keys: Keys) -> Bundle:
    sign_bundle(bundle.path, keys.private)
    return bundle


def test_signed_bundle_is_read(signed: Bundle, keys: Keys) -> None:
    assert read_bundle(signed.path, keys.public) == signed
    assert read_bundle(signed.path) == signed


def test_one_of_several_trusted_keys_is_enough(signed: Bundle, keys: Keys, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Keys(tmp_path, "theirs").public.read_bytes() + keys.public.read_bytes())
    assert signed_by(signed.path, both) == signed_by(signed.path, keys.public)


def test_unsigned_bundle_is_refused(bundle: Bundle, keys: Keys) -> None:
    with pytest.raises(BundleUntrusted, match=r"is not signed.*oddsight-deploy sign .* --key KEY"):
        read_bundle(bundle.path, keys.public)


def test_signature_by_another_key_is_refused(signed: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleUntrusted, match=r"not by a key in .*theirs-public\.pem \([0-9a-f]{16}\)"):
        read_bundle(signed.path, Keys(tmp_path, "theirs").public)


def test_changed_manifest_is_refused(signed: Bundle, keys: Keys) -> None:
    path = signed.path / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {"auc": 1.0}}))
    assert read_bundle(signed.path).manifest.metrics == {"auc": 1.0}
    with pytest.raises(BundleUntrusted, match="its manifest was changed after it was signed"):
        read_bundle(signed.path, keys.public)


def test_changed_file_is_refused(signed: Bundle, keys: Keys) -> None:
    (signed.path / ONNX_NAME).write_bytes(b"another graph")
    with pytest.raises(BundleCorrupt, match=r"model\.onnx: sha256 is"):
        read_bundle(signed.path, keys.public)


@pytest.mark.parametrize("damage", [b"", b"no base64!", b"AAAA\n", b"\xff\xfe"])
def test_damaged_signature_is_refused(signed: Bundle, keys: Keys, damage: bytes) -> None:
    (signed.path / SIGNATURE_NAME).write_bytes(damage)
    with pytest.raises(BundleUntrusted, match="signature"):
        read_bundle(signed.path, keys.public)


def test_signature_of_the_bare_manifest_is_none(signed: Bundle, keys: Keys) -> None:
    """A key that signs files of other kinds, too, cannot be made to sign a bundle that way."""
    import base64

    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(keys.private.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    (signed.path / SIGNATURE_NAME).write_bytes(base64.b64encode(key.sign((signed.path / MANIFEST_NAME).read_bytes())))
    with pytest.raises(BundleUntrusted):
        read_bundle(signed.path, keys.public)


def test_a_new_calibration_takes_the_signature_away(signed: Bundle, keys: Keys) -> None:
    replace_calibration(signed, CALIBRATION.model_copy(update={"median": 0.2}))
    assert not (signed.path / SIGNATURE_NAME).exists()
    with pytest.raises(BundleUntrusted, match="is not signed"):
        read_bundle(signed.path, keys.public)


def test_damaged_bundle_is_not_signed(bundle: Bundle, keys: Keys) -> None:
    (bundle.path / WEIGHTS_NAME).write_bytes(b"other weights")
    with pytest.raises(BundleCorrupt):
        sign_bundle(bundle.path, keys.private)
    assert not (bundle.path / SIGNATURE_NAME).exists()


def test_keys_of_other_kinds_are_named(bundle: Bundle, keys: Keys, tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1())
    wrong = {
        "must be a key of Ed25519": other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "without a password": pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")),
        "no private key in PEM": keys.public.read_bytes(),
    }
    for rule, content in wrong.items():
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(ConfigError, match=rule):
            sign_bundle(bundle.path, tmp_path / "key")
    with pytest.raises(ConfigError, match="No such file"):
        sign_bundle(bundle.path, tmp_path / "missing")


def test_trusted_keys_of_other_kinds_are_named(signed: Bundle, keys: Keys, tmp_path: Path) -> None:
    public = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    wrong = {
        "public keys of Ed25519 only": public,
        "holds no public key": keys.private.read_bytes(),
        "damaged public key": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    }
    for rule, content in wrong.items():
        (tmp_path / "trusted").write_bytes(content)
        with pytest.raises(ConfigError, match=rule):
            read_bundle(signed.path, tmp_path / "trusted")


def test_commands(bundle: Bundle, keys: Keys) -> None:
    run = CliRunner().invoke
    check = ["verify-signature", str(bundle.path), "--trusted-keys", str(keys.public)]
    assert isinstance(run(app, check).exception, BundleUntrusted)
    assert run(app, ["sign", str(bundle.path), "--key", str(keys.private)]).stdout == f"signed: {bundle.path / SIGNATURE_NAME}\n"
    assert f"signed by the key {signed_by(bundle.path, keys.public)}" in run(app, check).stdout.replace("\n", " ")


def test_service_refuses_an_unsigned_bundle(bundle: Bundle, keys: Keys) -> None:
    engine = {"bundle": str(bundle.path), "trusted_keys": str(keys.public)}
    with pytest.raises(BundleUntrusted, match="is not signed"):
        check_service(Settings.model_validate({"engine": engine}))
