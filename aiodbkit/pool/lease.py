"""What a caller holds: a lease is good for one acquire, and refused after its release."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from aiodbkit.errors import InterfaceError
from aiodbkit.pool.slot import Slot, SlotState

if TYPE_CHECKING:
    from aiodbkit.pool.pool import Pool

__all__ = ["Acquire", "Lease", "LooseLease"]

R = TypeVar("R")
L_co = TypeVar("L_co", bound="Lease[Any]", covariant=True)


class Lease(Generic[R]):
    """One borrowing of one resource.

    A lease is its own generation: each acquire makes a new one, so one that was released can
    never reach the resource again, even when the same slot has been lent to somebody else.
    """

    __slots__ = ("__weakref__", "_past", "_pool", "_slot")

    _past: Slot[R]  # once released: the slot that it was

    def __init__(self, pool: Pool[R], slot: Slot[R]) -> None:
        self._pool = pool
        self._slot: Slot[R] | None = slot

    @property
    def resource(self) -> R:
        """The pooled resource. InterfaceError once the lease has been released."""
        if self._has_ended:
            raise self._refusal("used")
        assert self._slot is not None
        return self._slot.resource

    @property
    def _has_ended(self) -> bool:
        """Whether it was released, or cut by the pool's close()."""
        slot = self._slot
        return slot is None or slot.state is SlotState.GONE

    def _refusal(self, what: str) -> InterfaceError:
        if self._slot is None:
            cure = "take another one; do not keep a connection beyond its block"
        else:
            cure = (
                "its pool was closed, its event loop has ended, or the process was forked: release "
                "it before, and take another one"
            )
        how = "released" if self._slot is None else "cut"
        return InterfaceError(f"this connection was {what} after it was {how}: {cure}")

    def _end(self) -> Slot[R]:
        """Part lease and slot, for good."""
        slot = self._slot
        if slot is None and self._past.state is SlotState.LENT:
            raise InterfaceError(
                "this connection was released before, and has been lent to somebody else since: "
                "drop it after its release; the new borrower keeps it"
            )
        if slot is None:
            raise InterfaceError(
                "this connection was released twice: leave it to the `async with` block, "
                "or call release() once"
            )
        self._past = slot
        self._slot = None
        slot.is_handed_out = False
        return slot

    def _release(self) -> None:
        """Give the slot back, at once. InterfaceError the second time."""
        self._pool.give_back(self._end())

    def _leave(self) -> None:
        """Release at the end of a block, unless that was done already."""
        slot = self._slot
        if slot is not None:
            self._past = slot
            self._slot = None
            self._pool.give_back(slot)


class LooseLease(Lease[R]):
    """A lease that no block ends: forgotten, it comes back when it is garbage-collected."""

    __slots__ = ()

    def __del__(self) -> None:
        if getattr(self, "_slot", None) is None:  # not even made, maybe
            return
        try:
            warnings.warn(
                f"a connection of {self._pool.name!r} was never released; "
                "use `async with pool.acquire() as connection:`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
        finally:  # also where warnings are errors
            self._pool.reclaim(self._end())


_AWAITED: Any = object()  # in place of a lease that somebody waits for


class _Lender(Protocol[L_co]):
    def take(self) -> Slot[Any] | None: ...
    async def wait(self, timeout: float | None) -> Slot[Any]: ...
    def lend(self, slot: Slot[Any]) -> L_co: ...
    def hand_out(self, slot: Slot[Any]) -> L_co: ...


class Acquire(Generic[L_co]):
    """What `Pool.acquire` returns: await it, or use it as a context manager."""

    __slots__ = ("_lease", "_pool", "_timeout")

    def __init__(self, pool: _Lender[L_co], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lease: L_co | None = None

    def __await__(self) -> Generator[Any, None, L_co]:
        return self._hand_out().__await__()

    async def _hand_out(self) -> L_co:
        return self._pool.hand_out(self._pool.take() or await self._pool.wait(self._timeout))

    async def __aenter__(self) -> L_co:
        if self._lease is not None:
            raise InterfaceError("this acquire() is already in use: call acquire() for each block")
        slot = self._pool.take()
        if slot is None:
            self._lease = _AWAITED
            try:
                slot = await self._pool.wait(self._timeout)
            except BaseException:
                self._lease = None
                raise
        lease = self._lease = self._pool.lend(slot)
        return lease

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # No await: a cancelled caller gives the slot back all the same.
        lease, self._lease = self._lease, None
        if lease is not None:
            lease._leave()
