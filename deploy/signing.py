"""Signatures of bundles: Ed25519 (RFC 8032) over ``bundle.json``, which holds the sha256 of every other file.

Keys are PEM files as OpenSSL makes them::

    openssl genpkey -algorithm ed25519 -out signing.pem      # keep it secret
    openssl pkey -in signing.pem -pubout -out trusted.pem    # for the hosts; may hold several public keys
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from deploy.errors import BundleUntrusted, ConfigError, first_line

_PURPOSE = b"oddsight bundle.json\n"
"""Signed before the content, so that a signature that the key gave for anything else is none of a bundle."""
_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def sign(content: bytes, key: Path) -> bytes:
    """The signature of a manifest, as a line of base64. Raises ConfigError if ``key`` holds no private key of Ed25519."""
    return base64.b64encode(_private_key(key).sign(_PURPOSE + content)) + b"\n"


def require_signature(content: bytes, signature: bytes, trusted_keys: Path, folder: Path) -> str:
    """The fingerprint of the key that signed a manifest; ``folder``: the bundle's, for messages.

    Raises:
        BundleUntrusted: none of the trusted keys did.
        ConfigError: ``trusted_keys`` holds no public keys of Ed25519.
    """
    keys = list(_public_keys(trusted_keys))
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleUntrusted(f"{folder}: its signature is damaged ({error}); sign the bundle again") from error
    for key in keys:
        if _signed(key, raw, content):
            return fingerprint(key)
    trusted = ", ".join(map(fingerprint, keys))
    raise BundleUntrusted(
        f"{folder}: its signature is not by a key in {trusted_keys} ({trusted}), or its manifest was changed after it was "
        "signed; have it signed again by somebody whom you trust: oddsight-deploy sign"
    )


def fingerprint(key: Ed25519PublicKey) -> str:
    """By which a public key is told from others."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _signed(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, _PURPOSE + content)
    except InvalidSignature:
        return False
    return True


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise ConfigError(f"{path}: no private key in PEM without a password: {first_line(error)}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: must be a key of Ed25519; make one: openssl genpkey -algorithm ed25519 -out {path}")
    return key


def _public_keys(path: Path) -> Iterator[Ed25519PublicKey]:
    blocks = _PUBLIC_KEY.findall(_read(path))
    if not blocks:
        raise ConfigError(f"{path}: holds no public key in PEM; make it: openssl pkey -in KEY -pubout -out {path}")
    for block in blocks:
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: holds a damaged public key: {first_line(error)}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{path}: must hold public keys of Ed25519 only, one is of another kind")
        yield key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
