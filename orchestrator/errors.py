"""The one error tree. Knows nothing of HTTP, SQL, Docker or any model provider.

    CorralError                    code · message · retryable
    ├─ CallerError                 the request is at fault
    │   ├─ InvalidRequest          a field, its type or its value
    │   ├─ NotSupported            a field or feature of the wire that Corral does not offer
    │   ├─ BodyTooLarge            more bytes than the operator allows
    │   ├─ OutOfRange              a part of a file that it has not
    │   ├─ Unauthenticated         no key, or not one of ours
    │   ├─ PermissionDenied        a key that may not do this
    │   ├─ NotFound                unknown here, or another project's
    │   ├─ Conflict                the state does not allow it
    │   └─ LimitExceeded           a quota of the project
    ├─ SandboxError                the platform under a sandbox is at fault
    │   ├─ EngineUnavailable       the container engine did not answer
    │   ├─ ImageMissing            the image is not there
    │   ├─ SandboxStartFailed      a stage of the start failed
    │   │   └─ SourceFailed        a data source could not be had, or not put in place
    │   ├─ SandboxGone             it existed; it, or the link to it, does not now
    │   │   └─ NewerGeneration     its guest has served a server of a later generation
    │   └─ CallForgotten           the guest had this call and has let it go
    ├─ CredentialError             a secret of the project cannot be used: unknown, revoked, or not to be renewed
    ├─ NetworkError                something outside may not be reached, or does not answer
    ├─ ModelError                  the provider refused, failed or broke off
    ├─ ToolError                   said to the model, never to the client
    ├─ LeaseLost                   another worker owns this run; stop quietly
    ├─ StoreError                  the database refused or is damaged
    │   └─ LogDamaged              what was stored cannot be read back
    └─ ConfigError                 the operator's settings are at fault

What a command inside a sandbox did (exit code, time-out, out of memory) is a result, not an error: see
`orchestrator.sandboxes.outcome`. Which HTTP status an error gets is decided in `orchestrator.api.errors` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CorralError(Exception):
    """Base of everything Corral raises on purpose.

    `code` is stable and snake case, without a back-end's name; `message` is written for people; `retryable` says
    whether the same call may succeed later without a change.
    """

    code: str = "internal"
    retryable: bool = False

    def __init__(self, message: str, *, code: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class CallerError(CorralError):
    """The caller's request cannot be served as it is."""

    code = "invalid_request"


class InvalidRequest(CallerError):
    """A field is unknown, missing, of the wrong type or of a value that is not allowed. The message names its path."""


class NotSupported(CallerError):
    """The wire knows this field or feature, this server does not offer it. The message names it."""

    code = "not_supported"


class BodyTooLarge(CallerError):
    """The request body has more bytes than the server takes."""

    code = "request_too_large"


class OutOfRange(CallerError):
    """The file, which has `size_bytes`, has not the part that is asked for."""

    code = "out_of_range"

    def __init__(self, message: str, *, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class Unauthenticated(CallerError):
    """No API key, or one that is unknown or revoked."""

    code = "unauthenticated"


class PermissionDenied(CallerError):
    """The caller is known, or refused by where it comes from, and may not do this."""

    code = "permission_denied"


class NotFound(CallerError):
    """The id is unknown to the caller's project. Another project's id gives exactly the same error."""

    code = "not_found"


class Conflict(CallerError):
    """The resource's present state does not allow the request."""

    code = "aborted"


class LimitExceeded(CallerError):
    """A quota is used up for now."""

    code = "too_many_requests"
    retryable = True


class SandboxError(CorralError):
    """The platform under a sandbox is at fault, never the command inside it."""

    code = "sandbox_failed"


class EngineUnavailable(SandboxError):
    """The container engine did not answer. Nothing is known about its sandboxes; nothing may be destroyed."""

    code = "engine_unavailable"
    retryable = True


class ImageMissing(SandboxError):
    """The sandbox image is not on the engine."""

    code = "image_missing"


class SandboxStartFailed(SandboxError):
    """A sandbox could not be started. `stage` is one of `image`, `disk`, `create`, `start`,
    `link`, `network`, `sources`, `setup`, `snapshot`."""

    code = "sandbox_start_failed"

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


class SourceFailed(SandboxStartFailed):
    """A data source could not be had, or not be put in place; no other was either. The message says which and why, and
    has no secret in it. Whose fault it is depends: a wrong address, a rule of the network, a server that is away."""

    code = "source_failed"

    def __init__(self, message: str) -> None:
        super().__init__(message, stage="sources")


class SandboxGone(SandboxError):
    """The sandbox, or the link to it, ended while it was needed."""

    code = "sandbox_gone"


class NewerGeneration(SandboxGone):
    """The guest has served `generation`, which is newer than ours. Whoever holds the data folder's lock nevertheless
    has gone back in time, as after a restore from a backup, and may go on with a newer one."""

    def __init__(self, message: str, *, generation: int) -> None:
        super().__init__(message)
        self.generation = generation


class CallForgotten(SandboxError):
    """The guest has had this call, and has forgotten what came of it: it is not carried out again."""

    code = "call_forgotten"


class CredentialError(CorralError):
    """A secret that a project keeps here cannot be used now: `credential_unknown`, `credential_revoked`, or
    `credential_failed`: its token server does not give a new token. The message has nothing secret in it."""

    code = "credential_failed"


class NetworkError(CorralError):
    """Something outside may not be reached (`network_refused`), or cannot be: `network_failed`."""

    code = "network_failed"


class ModelError(CorralError):
    """A model provider refused, failed or broke off. `code` says which: `model_overloaded`, `model_auth`, …

    `retry_after_s` is how long the provider asks to be left alone, where it says so.
    """

    code = "model_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, retryable=retryable)
        self.retry_after_s = retry_after_s


class ToolError(CorralError):
    """A tool call cannot be carried out. The model reads the message; the run goes on. `code` is the call's verdict."""

    code = "refused"


class LeaseLost(CorralError):
    """A newer generation holds this run. Whoever gets this stops and writes nothing more."""

    code = "lease_lost"


class StoreError(CorralError):
    """The database refused the operation or cannot be read."""

    code = "store_failed"


class LogDamaged(StoreError):
    """An event that was stored, of this kind, cannot be read back. Trying again does not help."""

    code = "log_damaged"

    def __init__(self, kind: str) -> None:
        super().__init__(f"The event log is damaged: a '{kind}' event cannot be read.")


class ConfigError(CorralError):
    """The operator's settings cannot be used. The message names the setting and what to do."""

    code = "bad_config"


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Puts the path of a field of the request into what is said about its value."""
    try:
        yield
    except (InvalidRequest, NotFound) as error:
        raise type(error)(f"Invalid value at '{field}': {error.message}") from error
