"""What runs after a transaction: in a task of the pool that acts for the one that ended it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from aiodbkit.errors import OperationalError
from aiodbkit.retry import HOOK_NOTE
from aiodbkit.scope import Scope, find_scope

__all__ = ["Hook", "log_failure", "refuse_unless_hook", "start_hooks", "wait_for_hooks"]

logger = logging.getLogger("aiodbkit.transaction")

Hook = Callable[[], Any]


def refuse_unless_hook(call: str, hook: object) -> None:
    """Raise TypeError now for what could not be called when its time comes."""
    if inspect.iscoroutine(hook):
        hook.close()
        raise TypeError(
            f"{call} takes a function, and was given a coroutine, the result of calling one: pass "
            "the async function itself, or functools.partial(function, ...) for its arguments"
        )
    if not callable(hook):
        raise TypeError(f"{call} takes a function without arguments, sync or async, not {hook!r}")


def start_hooks(
    engine: Any,
    spawn: Callable[..., asyncio.Task[None]],
    hooks: list[Hook],
    after: str,
    session: Scope | None,
) -> asyncio.Task[None]:
    """Run hooks in a task of the pool: in the caller's context and scope, out of the session."""
    context = copy_context()
    if session is not None:
        context.run(session.step_out)
    scope = context.run(find_scope, engine)
    acts_in = scope if scope is not None and scope.is_own else None
    return spawn(_run_all(hooks, after, acts_in), "hooks", context)


async def wait_for_hooks(hooks: asyncio.Task[None], after: str) -> None:
    """Wait until all have run, and raise the first error there was; cancelled, they go on."""
    try:
        await asyncio.wait([hooks])
    except asyncio.CancelledError:
        hooks.add_done_callback(log_failure)
        raise
    if hooks.cancelled():
        error = OperationalError(
            "the task that ran the hooks of a transaction was cancelled, so not all have run; the "
            "transaction itself has ended"
        )
        error.add_note(HOOK_NOTE.format(after))
        raise error
    hooks.result()


async def _run_all(hooks: list[Hook], after: str, acts_in: Scope | None) -> None:
    """Run all; then raise the first error there was."""
    if acts_in is not None:
        acts_in.deputy = asyncio.current_task()
    failure: BaseException | None = None
    for hook in hooks:
        try:
            result = hook()
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error.add_note(HOOK_NOTE.format(after))
            if failure is not None:
                logger.exception("a hook failed after another had failed")
            failure = failure or error
    if failure is not None:
        raise failure


def log_failure(hooks: asyncio.Task[None]) -> None:
    if not hooks.cancelled() and (error := hooks.exception()) is not None:
        logger.error("a hook failed whose caller had been cancelled", exc_info=error)
