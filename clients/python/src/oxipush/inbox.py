"""Pushes that wait for the application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .events import Push

#: While the application waits for an answer, so many times more may wait: the answer comes behind them.
WHILE_ASKING = 8


class Inbox:
    """A bounded queue. Who fills it waits for room before it reads on."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._pushes: deque[Push] = deque()
        self._asking = 0
        self._ended = False
        self._changed = asyncio.Event()

    def _has_room(self) -> bool:
        bound = self._bound * WHILE_ASKING if self._asking else self._bound
        return len(self._pushes) < bound

    async def room(self) -> bool:
        """Waits until there is room; whether it had to wait."""
        waited = False
        while not self._has_room():
            waited = True
            self._changed.clear()
            await self._changed.wait()
        return waited

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The application waits for an answer, and takes no push meanwhile."""
        self._asking += 1
        self._changed.set()
        try:
            yield
        finally:
            self._asking -= 1

    def put(self, push: Push) -> None:
        """One more, also beyond the bound: who asked for room before may bring several."""
        self._pushes.append(push)
        self._changed.set()

    def end(self) -> None:
        """No more come."""
        self._ended = True
        self._changed.set()

    async def get(self) -> Push | None:
        """The next one; None: all were taken, and no more come."""
        while not self._pushes:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        push = self._pushes.popleft()
        self._changed.set()
        return push
