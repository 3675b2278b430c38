"""One rule of an allowlist: what it says of ports, methods and paths, for hosts that it fits, and what requests get.

Pure; imports nothing.

Methods and paths can only be judged where the request can be read: on plain HTTP, and on TLS that is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CLOSED_PORTS = frozenset({25, 53, 853})
"""Mail and name servers: open only to a rule that names the port. What speaks there is no use of an agent's, but a way
to send spam from this machine, or to carry data out in names."""
_AMBIGUOUS = re.compile(r"//|/\.{1,2}(?:/|$)|\\|%(?:2[ef5]|5c|00)|;", re.IGNORECASE)
"""Paths that two servers may read differently: dot segments, also encoded, encoded slashes and percent signs."""


@dataclass(frozen=True, slots=True)
class Rule:
    """For hosts that fit `pattern`."""

    pattern: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What requests get that it admits. Secret."""
    credential: str = ""
    """Id of the credential whose header they get as well; `headers` go over it."""
    refusal: str = ""
    """Why requests that it admits are refused all the same: its credential cannot be had. Empty: they are not."""
    ports: frozenset[int] = frozenset()
    """Empty: all but `CLOSED_PORTS`."""
    methods: frozenset[str] = frozenset()
    """In upper case; empty: all."""
    paths: tuple[str, ...] = ()
    """Whole paths, or with `*` at the end beginnings of them; empty: all."""

    is_secret: bool = False
    """Whether a credential's header is among `headers`: they are not to go in the clear."""

    @property
    def adds(self) -> bool:
        """Whether requests get anything."""
        return bool(self.headers or self.credential)

    @property
    def is_narrow(self) -> bool:
        """Whether a request must be read before this rule can be judged."""
        return bool(self.methods or self.paths)

    def admits_port(self, port: int) -> bool:
        return port in self.ports if self.ports else port not in CLOSED_PORTS

    def admits(self, method: str, path: str) -> bool:
        """Of a request to a host and a port that were admitted. `path` is as in the request, without query."""
        if self.methods and method.upper() not in self.methods:
            return False
        if not self.paths:
            return True
        if not path.startswith("/") or _AMBIGUOUS.search(path):
            return False
        return any(path.startswith(each[:-1]) if each.endswith("*") else path == each for each in self.paths)


ANY = Rule("*")
"""What holds where there are no rules."""
