"""The limits that hold for a run and its calls, as one value that is passed along. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may take."""

    call_timeout_s: float = 600.0
    output_limit_bytes: int = 1 << 20
    """Output kept of one call."""
    output_total_limit_bytes: int = 1 << 30
    """What one call may write at all; then it is stopped."""
    run_timeout_s: float = 3600.0
    max_turns: int = 200
    context_limit_tokens: int = 135_000
    """A conversation that is longer is shortened for its model (reference, section 8)."""
    max_repeats: int = 6
    """So often a call may fail in the same way, without a success in between, before the run ends."""
    max_asked_again: int = 2
    """So often a model is asked again whose answer does not have the wanted form."""
    engine_patience_s: float = 60.0
    """How long a call that goes on inside is waited for while its sandbox cannot be reached."""
    denies_on_hook_failure: bool = False
    """Whether a hook that fails denies the call that it was asked about."""
    code_limit_bytes: int = 4 << 20
    """Code of one `code_execution` call (attack case R11)."""
    file_limit_bytes: int = 16 << 20
    """Content of one `write_file` call."""
