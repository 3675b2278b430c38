"""Where data sources may be put and how large they may be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from orchestrator.errors import InvalidRequest
from orchestrator.wire.environments import EnvironmentSpec, InlineSource

TARGET_ROOTS = ("/workspace", "/.agents", "/home/agent", "/tmp")  # noqa: S108 - inside the sandbox
"""Design 4.6: targets are relative to `/` and may lie under these."""
INLINE_LIMIT_BYTES = 16 << 20
"""One inline file. The request body's own limit bounds them together."""


def check_inline(sources: Sequence[InlineSource], at: str = "environment.sources") -> None:
    """Raises `InvalidRequest`, naming the field, if a target or a size is not allowed or two sources collide."""
    files: dict[PurePosixPath, int] = {}
    folders: dict[PurePosixPath, int] = {}
    for index, source in enumerate(sources):
        path = PurePosixPath(source.path)
        where = f"{at}[{index}]"
        if not any(path.is_relative_to(root) and str(path) != root for root in TARGET_ROOTS):
            roots = ", ".join(TARGET_ROOTS)
            raise InvalidRequest(f"Invalid value at '{where}.target': must be a file below one of {roots}.")
        if len(source.data) > INLINE_LIMIT_BYTES:
            raise InvalidRequest(f"Invalid value at '{where}.content': more than {INLINE_LIMIT_BYTES} bytes.")
        if path in files:
            raise InvalidRequest(f"Invalid value at '{where}.target': the same as '{at}[{files[path]}].target'.")
        if path in folders:
            raise InvalidRequest(f"Invalid value at '{where}.target': '{at}[{folders[path]}].target' lies below it.")
        for parent in path.parents:
            if parent in files:
                raise InvalidRequest(
                    f"Invalid value at '{where}.target': '{at}[{files[parent]}].target' is a file, not a folder."
                )
            folders.setdefault(parent, index)
        files[path] = index


def check_base(spec: EnvironmentSpec, at: str) -> None:
    """Whether a template can be built of it. Raises `InvalidRequest`, naming the field."""
    for name in ("environment_id", "network", "env"):
        if getattr(spec, name):
            raise InvalidRequest(f"Not supported: '{at}.{name}'.")
    inline = [source for source in spec.sources if isinstance(source, InlineSource)]
    if len(inline) < len(spec.sources):
        raise InvalidRequest(f"Not supported: '{at}.sources' of a type other than 'inline'.")
    check_inline(inline, f"{at}.sources")
    for index, source in enumerate(inline):
        if PurePosixPath(source.path).is_relative_to("/tmp"):  # noqa: S108 - inside the sandbox
            raise InvalidRequest(
                f"Invalid value at '{at}.sources[{index}].target': /tmp is memory, which a template cannot hold."
            )
