from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from orchestrator.credentials.sealing import KeyRing, Place, SealingKey
from orchestrator.errors import StoreError

PLACE = Place("credentials", "crd_1", "prj_1", "sealed")
SECRET = b"canary-secret"


def test_what_is_sealed_opens_at_its_place_alone() -> None:
    ring = KeyRing([SealingKey.new()])
    key_id, sealed = ring.seal(SECRET, PLACE)
    assert ring.open(key_id, sealed, PLACE) == SECRET
    for elsewhere in (
        replace(PLACE, table="agents"),
        replace(PLACE, row="crd_2"),
        replace(PLACE, project_id="prj_2"),
        replace(PLACE, column="other"),
        Place("credentials", 'crd_1", "prj_1', "", "sealed"),
    ):
        with pytest.raises(StoreError, match="not put there"):
            ring.open(key_id, sealed, elsewhere)


def test_what_was_changed_does_not_open() -> None:
    ring = KeyRing([SealingKey.new()])
    key_id, sealed = ring.seal(SECRET, PLACE)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(StoreError, match="damaged"):
            ring.open(key_id, bytes(changed), PLACE)
    for cut in (b"", sealed[:1], sealed[:12], sealed[:-1]):
        with pytest.raises(StoreError, match="damaged"):
            ring.open(key_id, cut, PLACE)


def test_the_last_key_seals_and_all_open() -> None:
    old, new = SealingKey.new(), SealingKey.new()
    before = KeyRing([old]).seal(SECRET, PLACE)
    both = KeyRing([old, new])
    after = both.seal(SECRET, PLACE)
    assert (before[0], after[0]) == (old.id, new.id)
    assert both.open(*before, PLACE) == both.open(*after, PLACE) == SECRET
    with pytest.raises(StoreError, match=f"needs the sealing key {old.id}"):
        KeyRing([new]).open(*before, PLACE)
    with pytest.raises(StoreError, match="damaged"):
        both.open(new.id, before[1], PLACE)


def test_nothing_is_sealed_twice_to_the_same_bytes_nor_shown() -> None:
    key = SealingKey.new()
    ring = KeyRing([key])
    seals = {ring.seal(SECRET, PLACE)[1] for _ in range(100)}
    assert len(seals) == 100
    assert not any(SECRET in sealed for sealed in seals)
    assert key.text not in repr(key)
    assert repr(key.secret) not in repr(key)


def test_keys_are_base64_of_32_bytes() -> None:
    key = SealingKey(bytes(range(224, 256)))
    assert SealingKey.parse(f" {key.text}\n") == key
    assert SealingKey.parse(base64.b64encode(key.secret).decode()) == key
    for wrong in ("canary!", "", base64.b64encode(b"canary").decode(), key.text[:-4]):
        with pytest.raises(ValueError, match="a sealing key") as caught:
            SealingKey.parse(wrong)
        assert "canary" not in str(caught.value)
    with pytest.raises(ValueError, match="at least one"):
        KeyRing([])
