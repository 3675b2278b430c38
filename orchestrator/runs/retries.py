"""When a model is asked again that failed: the one policy. Providers do not try again themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from orchestrator.errors import ModelError

_ATTEMPTS = 4
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0
_LONGEST_RETRY_AFTER_S = 120.0
"""A provider that wants to be left alone for longer is not waited for: its error is the run's."""


async def attempts(
    ask: Callable[[int], Awaitable[None]],
    failed: Callable[[ModelError, int], None],
    again: Callable[[], None] = lambda: None,
) -> None:
    """Calls `ask` with 0, 1, 2 … until it does not fail: four times at most, and not before the time that the provider
    asks for. `failed` is told of each failure and its attempt; `again`, before the wait, that there will be another.

    Raises:
        ModelError: it failed for good.
    """

    def note(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, ModelError):
            failed(error, state.attempt_number - 1)

    retrying = AsyncRetrying(
        retry=retry_if_exception(may_pass),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=_wait_s,
        after=note,
        before_sleep=lambda _: again(),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            await ask(attempt.retry_state.attempt_number - 1)


def may_pass(error: BaseException) -> bool:
    """Whether it is an error of a model after which it may be asked again."""
    return isinstance(error, ModelError) and error.retryable and (error.retry_after_s or 0.0) <= _LONGEST_RETRY_AFTER_S


def _wait_s(state: RetryCallState) -> float:
    """The time before the next try: as the provider asks, and never less than our own."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.retry_after_s if isinstance(error, ModelError) else None
    own = wait_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S) + wait_random(0, _FIRST_WAIT_S)
    return max(own(state), asked_s or 0.0)
