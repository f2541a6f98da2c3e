"""How many requests use the database at the same time."""

import asyncio
from typing import Any, Protocol
from weakref import WeakSet

from anyio import Semaphore, WouldBlock, move_on_after

from production.settings import LOCK_TIMEOUT
from production.sql.errors import BUSY, NotReadyError

SLOW = 0.05  # seconds with a permit, from which on a request is a slow one
SLOW_REQUESTS = 20  # at a time, streams with a session included
serving: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


class Holder(Protocol):
    """Whoever has a permit."""

    permit: "Limit | None"

    def waits_for_database(self) -> bool:
        """Tell whether the next one in its place would wait for the same."""


class Limit:
    """So many permits; a holder that takes long goes on with one for slow requests."""

    def __init__(self, permits: int, slow: "Limit | None" = None) -> None:
        self.semaphore = Semaphore(permits)
        self.slow = slow
        self.since: dict[Any, float] = {}  # of the holders, the oldest first
        self.timer: asyncio.TimerHandle | None = None

    async def acquire(self, holder: Holder) -> None:
        """Wait for a permit, without a thread.

        Raises NotReadyError after LOCK_TIMEOUT seconds.
        """
        try:
            self.semaphore.acquire_nowait()
        except WouldBlock:
            self.look_soon()
            with move_on_after(LOCK_TIMEOUT) as limit:
                await self.semaphore.acquire()
            if limit.cancelled_caught:
                raise NotReadyError(BUSY) from None
        self.hand_to(holder)

    def hand_to(self, holder: Holder) -> None:
        """Note who has the permit, and since when."""
        holder.permit = self
        self.since[holder] = asyncio.get_running_loop().time()

    def release(self, holder: Holder) -> None:
        """Take the permit back, for the next one who waits."""
        holder.permit = None
        del self.since[holder]
        self.semaphore.release()

    def look_soon(self) -> None:
        """Look for slow holders in a moment, if somebody waits then."""
        if self.slow and not self.timer:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(SLOW, self.make_room)

    def make_room(self) -> None:
        """Let those who take long go on as slow requests, for those who wait."""
        self.timer = None
        late = asyncio.get_running_loop().time() - SLOW
        for holder in [one for one, since in self.since.items() if since <= late]:
            if self.slow and self.is_full() and not holder.waits_for_database():
                self.move(holder, self.slow)
        if self.is_full():
            self.look_soon()

    def is_full(self) -> bool:
        """Tell whether somebody waits."""
        return self.semaphore.statistics().tasks_waiting > 0

    def move(self, holder: Holder, slow: "Limit") -> None:
        """Give a holder a permit of the slow ones, if there is one."""
        try:
            slow.semaphore.acquire_nowait()
        except WouldBlock:
            return
        self.release(holder)
        slow.hand_to(holder)


def make_limits(readers: int, writers: int) -> dict[str, Limit]:
    """Make the limits of a running event loop, which serves requests from now on."""
    serving.add(asyncio.get_running_loop())
    slow = Limit(SLOW_REQUESTS)
    return {"read": Limit(readers, slow), "write": Limit(writers, slow), "slow": slow}


def serves_requests(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether requests wait while this event loop waits."""
    return loop in serving
