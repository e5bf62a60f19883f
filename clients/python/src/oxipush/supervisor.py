"""Keeping a client connected: B, C and D of docs/client-protocol.md."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from .backoff import Backoff, ComeBack
from .connection import Connection, Ending, NotOxipush
from .deadline import TooLate, within
from .entry import CannotJoin, TryLater, enter, settle
from .errors import ConnectionLost, Ended, Refused
from .events import Connected, Disconnected, Draining, Problem
from .hearing import Hearing
from .state import State, log
from .tokens import NoToken, refresh_after


class _Failed(Exception):
    """A try failed; the next one is due after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


class Supervisor:
    """Always looks for the connection that takes the place of the one that is there."""

    def __init__(self, state: State, entered: Callable[[], None], moved: Callable[[], None]) -> None:
        self._state = state
        self._entered = entered
        self._moved = moved
        self._hearing = Hearing(state, moved, self.spawn)
        self._backoff = Backoff(state.options.first_backoff, state.options.max_backoff)
        #: All that are open.
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs something until it is done, or the client ends."""
        task = asyncio.create_task(work, name=f"oxipush {name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def run(self) -> None:
        """Runs until the client has ended: raises Ended."""
        delay = 0.0
        while True:
            await self._pause(delay)
            try:
                connection = await self._open()
            except _Failed as failed:
                delay = failed.delay
                continue
            self._replace(connection)
            news: list[asyncio.Future[Any]] = [connection.draining, connection.ended]
            await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
            if connection.ended.done():
                delay = self._left(connection)
            else:
                milliseconds = connection.draining.result()
                self._state.tell(Draining(milliseconds))
                delay = random.uniform(0, milliseconds / 2000)

    async def close(self) -> None:
        """Ends everything that runs, and closes what is open with 1000."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in list(self._connections)), return_exceptions=True)

    def abandon(self) -> None:
        """Breaks everything off, as the end of the process does."""
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.abort("abandoned")

    async def _pause(self, delay: float) -> None:
        """Waits; no longer than a connection that drains is there."""
        draining = self._state.current
        if draining is None:
            await asyncio.sleep(delay)
        else:
            await asyncio.wait([draining.ended], timeout=delay)
            self._look_after(draining)

    def _look_after(self, draining: Connection) -> None:
        """Raises Ended where a connection that drained was closed for good."""
        if draining is self._state.current and draining.ended.done():
            self._left(draining)

    def _left(self, connection: Connection) -> float:
        """A connection has ended; seconds until the next try. Raises Ended where none is to come."""
        self._state.current = None
        ending = connection.ended.result()
        loop = asyncio.get_running_loop()
        if connection.joined_at is not None and loop.time() - connection.joined_at >= self._state.options.stable_after:
            self._backoff.reset()
        delay = self._delay_after(ending)
        self._state.tell(Disconnected(ending.code, ending.reason))
        return delay

    def _delay_after(self, ending: Ending) -> float:
        come_back = ComeBack.after(ending.code)
        is_over = come_back is ComeBack.NEVER
        if come_back is ComeBack.WITH_NEW_TOKEN:
            self._state.tokens.stale()
            is_over = not self._state.tokens.can_ask
        if is_over:
            raise Ended(ending.code, None, ending.reason)
        return self._backoff.delay(come_back)

    async def _open(self) -> Connection:
        """Connects, joins and subscribes. Raises _Failed, and Ended."""
        state = self._state
        try:
            token = await state.tokens.current()
        except NoToken as error:
            state.tell(Problem("token", str(error)))
            raise _Failed(self._backoff.next()) from error
        draining = state.current
        try:
            return await within(self._connect(token), state.options.connect_timeout)
        except TooLate as error:
            state.tell(Problem("handshake", f"nothing was joined within {state.options.connect_timeout:g} s"))
            raise _Failed(self._backoff.next()) from error
        finally:
            if draining is not None:
                self._look_after(draining)

    async def _connect(self, token: str | None) -> Connection:
        state, options = self._state, self._state.options
        try:
            socket = await Connection.dial(
                options.url, options.connect_timeout, options.max_message, options.connect_options
            )
        except InvalidURI as error:
            raise Ended(None, "bad_url", str(error)) from error
        except (OSError, InvalidHandshake, NotOxipush, asyncio.TimeoutError) as error:
            state.tell(Problem("handshake", f"{options.url}: {error}"))
            raise _Failed(self._backoff.after_refusal(retry_after(error))) from error
        connection = Connection(socket, self._hearing.hear, state.inbox.room)
        self._connections.add(connection)
        connection.ended.add_done_callback(lambda _: self._connections.discard(connection))
        self._count += 1
        connection.start(f"{self._count}", options.ping_interval, options.pong_timeout)
        refresh = self.spawn(self._keep_fresh(connection), f"{self._count} token")
        connection.ended.add_done_callback(lambda _: refresh.cancel())
        try:
            await enter(state, connection, token)
        except ConnectionLost as error:
            ending = await connection.ended
            state.tell(Disconnected(ending.code, ending.reason))
            raise _Failed(self._delay_after(ending)) from error
        except TryLater as later:
            state.tell(Problem(later.code, str(later)))
            await connection.close(str(later))
            raise _Failed(self._backoff.next()) from later
        except CannotJoin as refused:
            await connection.close(str(refused))
            raise Ended(None, refused.error.code, refused.error.message) from refused
        except asyncio.CancelledError:
            connection.abort("not joined in time")
            raise
        return connection

    def _replace(self, connection: Connection) -> None:
        """A connection takes the place of the one before, if there is one."""
        connection.joined_at = asyncio.get_running_loop().time()
        before, self._state.current = self._state.current, connection
        self._state.streams.doubt_acks()
        self._moved()
        self._entered()
        self._state.tell(Connected())
        # what calls asked for since it was entered
        self.spawn(self._settle(connection), "rooms")
        if before is not None:
            self.spawn(self._retire(before), "drain")

    async def _settle(self, connection: Connection) -> None:
        try:
            await settle(self._state, connection)
        except ConnectionLost:
            # the next one is entered as a whole
            pass

    async def _retire(self, connection: Connection) -> None:
        await asyncio.wait([connection.ended], timeout=self._state.options.drain_overlap)
        await connection.answer_all()
        await connection.close("drained")

    async def _keep_fresh(self, connection: Connection) -> None:
        """Renews the token before its end."""
        tokens = self._state.tokens
        while tokens.can_ask:
            await connection.expiry_told.wait()
            connection.expiry_told.clear()
            await asyncio.sleep(refresh_after(connection.expires_in))
            backoff = Backoff(self._state.options.first_backoff, self._state.options.max_backoff)
            token = None
            while token is None:
                try:
                    token = await tokens.new()
                except NoToken as error:
                    self._state.tell(Problem("token", str(error)))
                    await asyncio.sleep(backoff.next())
            try:
                await connection.ask("refresh", "", {"token": token})
            except ConnectionLost:
                return
            except Refused as error:
                self._state.tell(Problem(error.code, error.message))


def retry_after(error: BaseException) -> float | None:
    """The seconds of a refusal's Retry-After."""
    if not isinstance(error, InvalidStatus):
        return None
    try:
        return float(error.response.headers.get("Retry-After", ""))
    except ValueError:
        return None
