"""Sealing: AES-256-GCM, bound to the row and column that what is sealed stands in. Pure but for random bytes.

What is sealed begins with a byte for the format, then the nonce; the tag is at the end. A key's id is made from the
key, so a file or a setting needs the keys alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.errors import StoreError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"
_URL_SAFE = str.maketrans("-_", "+/")
_ID_CONTEXT = b"corral sealing key\0"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """256 bits."""

    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        return cls(AESGCM.generate_key(bit_length=8 * _KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of base64 in either alphabet. Raises `ValueError`, which does not repeat it."""
        try:
            secret = base64.b64decode(text.strip().translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("a sealing key is base64") from None
        if len(secret) != _KEY_BYTES:
            raise ValueError(f"a sealing key has {_KEY_BYTES} bytes, this one has {len(secret)}")
        return cls(secret)

    @property
    def text(self) -> str:
        """URL-safe base64."""
        return base64.urlsafe_b64encode(self.secret).decode()

    @property
    def id(self) -> str:
        """16 hexadecimal characters, which tell nothing of the key."""
        return hashlib.sha256(_ID_CONTEXT + self.secret).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something sealed stands. Moved elsewhere it does not open."""

    table: str
    row: str
    project_id: str
    column: str

    @property
    def bound(self) -> bytes:
        return json.dumps([self.table, self.row, self.project_id, self.column]).encode()


class KeyRing:
    """Some keys: the last seals, all open."""

    def __init__(self, keys: Iterable[SealingKey]) -> None:
        self._keys = {key.id: key for key in keys}
        if not self._keys:
            raise ValueError("a key ring has at least one key")
        self.newest = list(self._keys.values())[-1]

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._keys)

    def seal(self, plain: bytes, place: Place) -> tuple[str, bytes]:
        """The id of the key, and what is sealed with it."""
        nonce = os.urandom(_NONCE_BYTES)
        return self.newest.id, _FORMAT + nonce + AESGCM(self.newest.secret).encrypt(nonce, plain, place.bound)

    def open(self, key_id: str, sealed: bytes, place: Place) -> bytes:
        """Raises `StoreError`: the key is not here, or it was sealed for another place, or changed."""
        key = self._keys.get(key_id)
        if key is None:
            raise StoreError(f"What is sealed in {place.table} needs the sealing key {key_id}, which is not here.")
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _FORMAT or len(nonce) < _NONCE_BYTES:
                raise InvalidTag
            return AESGCM(key.secret).decrypt(nonce, rest, place.bound)
        except InvalidTag:
            raise StoreError(
                f"What is sealed in {place.table}, row {place.row}, is damaged, or was not put there by this server."
            ) from None
