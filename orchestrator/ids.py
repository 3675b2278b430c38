"""Making identifiers, and the little structure that some of them carry. No I/O, no state.

Interaction ids follow the public service: `v1_` and URL-safe base64 (no padding) of a two-field protobuf message,
field 1 the conversation's first interaction, field 2 this one (reference, section 2.2). Clients treat them as opaque.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import string

_CALL_ALPHABET = string.ascii_lowercase + string.digits
_PROJECT = re.compile(r"prj_[0-9a-f]{16}")
_KEY_BYTES = 16
"""128 random bits each: an id of another project cannot be guessed (attack case T1)."""


def new_environment_id() -> str:
    """32 hexadecimal characters."""
    return secrets.token_hex(16)


def new_sandbox_id() -> str:
    """32 hexadecimal characters. A sandbox's id is never an environment's id: an environment outlives its sandboxes."""
    return secrets.token_hex(16)


def new_project_id() -> str:
    """`prj_` and 16 hexadecimal characters."""
    return f"prj_{secrets.token_hex(8)}"


def is_project_id(text: str) -> bool:
    """Whether `text` is one that `new_project_id` could have made."""
    return _PROJECT.fullmatch(text) is not None


def new_key_id() -> str:
    """`key_` and 16 hexadecimal characters: names an API key without being one."""
    return f"key_{secrets.token_hex(8)}"


def new_agent_uid() -> str:
    """`agt_` and 16 hexadecimal characters: tells agents apart that have had the same id, one after the other."""
    return f"agt_{secrets.token_hex(8)}"


def new_credential_uid() -> str:
    """`crd_` and 16 hexadecimal characters: tells credentials apart that have had the same id."""
    return f"crd_{secrets.token_hex(8)}"


def new_credential_id() -> str:
    """`cred-` and 32 hexadecimal characters, for a credential whose caller names none."""
    return f"cred-{secrets.token_hex(16)}"


def new_call_id() -> str:
    """8 characters of `a-z0-9`, as the public service's tool calls have; unique enough within one environment."""
    return "".join(secrets.choice(_CALL_ALPHABET) for _ in range(8))


def new_interaction_id(previous: str | None = None) -> str:
    """An id for a new interaction; `previous`, a valid interaction id, makes it part of that one's conversation."""
    own = secrets.token_bytes(_KEY_BYTES)
    first = _conversation_key(previous) if previous is not None else own
    message = b"".join(bytes([tag, len(value)]) + value for tag, value in ((0x0A, first), (0x12, own)))
    return "v1_" + base64.urlsafe_b64encode(message).rstrip(b"=").decode()


def conversation_of(interaction_id: str) -> str:
    """A key, hexadecimal, that is equal for all interactions of one conversation.

    Raises:
        ValueError: `interaction_id` was not made by `new_interaction_id`.
    """
    return _conversation_key(interaction_id).hex()


def _conversation_key(interaction_id: str) -> bytes:
    head, _, body = interaction_id.partition("_")
    try:
        message = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not an interaction id: {interaction_id!r}") from error
    if head != "v1" or len(message) != 2 * (_KEY_BYTES + 2) or message[0] != 0x0A or message[1] != _KEY_BYTES:
        raise ValueError(f"not an interaction id: {interaction_id!r}")
    return message[2 : 2 + _KEY_BYTES]
