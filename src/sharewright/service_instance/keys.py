"""Key pairs of a service instance: ours to log in with, and its host key, made here so that it can be pinned."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

GUEST_COMMAND = "/usr/lib/sharewright/sharewright-guest serve"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """``public`` is one line, "ssh-ed25519 AAAA…"; ``private`` is OpenSSH's PEM without a passphrase."""

    public: str
    private: str = field(repr=False)


def new_key_pair() -> KeyPair:
    key = Ed25519PrivateKey.generate()
    return _pair(key)


def _pair(key: Ed25519PrivateKey) -> KeyPair:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return KeyPair(public=public.decode(), private=private.decode())


def public_of(private: str) -> str:
    """The public line of a private key made by :func:`new_key_pair`."""
    key = load_ssh_private_key(private.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("Not an Ed25519 key.")
    return _pair(key).public


def authorized_keys_line(public: str, *, command: str = GUEST_COMMAND) -> str:
    """A line of authorized_keys that lets the key run ``command`` and nothing else: no shell, no forwarding, no tty.

    ``command`` is a constant of ours, never data; a quote in it would end the option early.
    """
    if '"' in command or "\n" in command or "\\" in command:
        raise ValueError("The forced command may hold neither quotes nor backslashes nor newlines.")
    return f'restrict,command="{command}" {public} sharewright'
