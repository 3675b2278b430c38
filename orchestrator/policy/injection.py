"""What takes the place of placeholders in a request on its way out, and where it may. Pure; imports `network` and
`secrets`.

A placeholder is swapped toward those whom its credential trusts, where it allows it; anywhere else the request is
refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, unquote_to_bytes

from orchestrator.policy.network import Refusal, fits
from orchestrator.policy.secrets import VariableSecret

_PLACEHOLDER = re.compile(rb"__GEMINI_CRED_([a-z0-9]+(?:(?:-+|_)[a-z0-9]+)*)__")
_PLACEHOLDER_BYTES = 160
"""No placeholder is longer."""
_UNSAFE = re.compile(r"[\0\r\n]")
_BASIC = b"basic "

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True)
class Swaps:
    """Those of one request: of one environment, toward one host."""

    host: str
    """In its one form: whom the request is dialled to."""
    secrets: Mapping[str, VariableSecret | Refusal] = field(default_factory=dict, repr=False)
    """By id: those that the environment has placeholders of, and no others; or why one cannot be had."""
    used: dict[str, None] = field(default_factory=dict)
    """Ids of those that are in the request."""
    written: set[str] = field(default_factory=set, repr=False)
    """Their values as they are in it, also what they were encoded in. Secret."""

    @property
    def may_be_in_body(self) -> bool:
        """Whether any may stand in the body of a request to this host."""
        return any(
            isinstance(each, VariableSecret) and "body" in each.locations and self._is_trusted(each)
            for each in self.secrets.values()
        )

    def rewrite(self, target: bytes, headers: Headers) -> tuple[bytes, list[tuple[bytes, bytes]]] | Refusal:
        """Path with query, and headers, with the values in them. Secret."""
        path, mark, query = target.partition(b"?")
        try:
            if _PLACEHOLDER.search(unquote_to_bytes(path)):
                raise _Refused("the placeholder of a credential is in the path, where none may be")
            return path + mark + self._query(query), [self._header(name, value) for name, value in headers]
        except _Refused as refused:
            return Refusal(str(refused))

    def rewrite_body(self, content_type: str, body: bytes) -> bytes | Refusal:
        """A whole body with the values in it, written as its type wants them. Secret."""
        written = _writer(content_type)
        if written is None:
            found = _PLACEHOLDER.search(body)
            return Refusal(f"the placeholder of a credential is in a body of type {content_type!r}") if found else body
        try:
            return _PLACEHOLDER.sub(lambda found: written(self._value(found, "body")).encode(), body)
        except _Refused as refused:
            return Refusal(str(refused))

    def _query(self, query: bytes) -> bytes:
        swapped = _PLACEHOLDER.sub(lambda found: quote(self._value(found, "query"), safe="").encode("ascii"), query)
        # What the client encoded is not swapped, but it is found.
        if len(_PLACEHOLDER.findall(unquote_to_bytes(query))) != len(_PLACEHOLDER.findall(query)):
            raise _Refused("the placeholder of a credential is encoded in the query; it must stand there as it is")
        return swapped

    def _header(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        if _PLACEHOLDER.search(name):
            raise _Refused("the placeholder of a credential is in the name of a header")
        if value[: len(_BASIC)].lower() == _BASIC:
            return name, self._basic(value)
        return name, _PLACEHOLDER.sub(self._in_header, value)

    def _basic(self, value: bytes) -> bytes:
        """User and password are sent in base64, by git as by curl."""
        try:
            plain = base64.b64decode(value[len(_BASIC) :].strip(), validate=True)
        except binascii.Error:
            return _PLACEHOLDER.sub(self._in_header, value)
        if not _PLACEHOLDER.search(plain):
            return value
        encoded = base64.b64encode(_PLACEHOLDER.sub(self._in_header, plain))
        self.written.add(encoded.decode("ascii"))
        return value[: len(_BASIC)] + encoded

    def _in_header(self, found: re.Match[bytes]) -> bytes:
        try:
            return self._value(found, "header").encode("latin-1")
        except UnicodeEncodeError:
            raise _Refused(f"the value of credential {found[1].decode()!r} cannot be sent in a header") from None

    def _value(self, found: re.Match[bytes], location: str) -> str:
        credential_id = found[1].decode("ascii")
        secret = self.secrets.get(credential_id)
        if secret is None:
            raise _Refused(f"the environment has no variable with credential {credential_id!r}")
        if isinstance(secret, Refusal):
            raise _Refused(secret.reason)
        if not self._is_trusted(secret):
            raise _Refused(f"credential {credential_id!r} does not trust {self.host}: see its 'trusted_domains'")
        if location not in secret.locations:
            raise _Refused(f"credential {credential_id!r} may not be in the {location}: see its 'injection_location'")
        if _UNSAFE.search(secret.value):
            raise _Refused(f"the value of credential {credential_id!r} has line breaks")
        self.used[credential_id] = None
        self.written.add(secret.value)
        return secret.value

    def _is_trusted(self, secret: VariableSecret) -> bool:
        return any(fits(pattern, self.host) for pattern in secret.trusted_domains)


class Scan:
    """Looks for placeholders in a body that goes by in pieces, in which none is swapped."""

    def __init__(self) -> None:
        self._tail = b""

    def finds(self, piece: bytes) -> bool:
        """Whether one ends in `piece`."""
        seen = self._tail + piece
        self._tail = seen[-_PLACEHOLDER_BYTES:]
        return _PLACEHOLDER.search(seen) is not None


def _writer(content_type: str) -> Callable[[str], str] | None:
    """How a value is written within a body of a type; None: nobody here knows."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return lambda value: json.dumps(value)[1:-1]
    if kind == "application/x-www-form-urlencoded":
        return quote_plus
    return str if kind.startswith("text/") else None


class _Refused(Exception):
    """The message has no secret."""
