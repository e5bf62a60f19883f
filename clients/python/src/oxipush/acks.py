"""Acknowledging what is taken, and writing it down before: A and S of docs/client-protocol.md."""

from __future__ import annotations

import asyncio

from .errors import ConnectionLost
from .state import State


class Acks:
    """Some time after something was taken, all that was is written down and acknowledged."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._moved = asyncio.Event()
        self._order = asyncio.Lock()

    def moved(self) -> None:
        """A place has changed, or a connection is there to acknowledge on."""
        self._moved.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await self._moved.wait()
            await asyncio.sleep(self._state.options.ack_interval)
            self._moved.clear()
            await self.flush()

    async def flush(self) -> None:
        """Writes and acknowledges now."""
        async with self._order:
            self._state.streams.write()
            connection = self._state.connected()
            if connection is None or self._state.options.device is None:
                return
            for card in list(self._state.cards):
                key = f"card {card}"
                reading = connection.stream(key)
                owed = self._state.streams.owed(key, reading.came)
                if owed is None or not reading.placed or card not in connection.cards:
                    continue
                try:
                    await connection.send("ack", {"card": card, "seq": owed.seq, "epoch": owed.epoch})
                except ConnectionLost:
                    return
                self._state.streams.acknowledge(key, owed)
