"""One connection: what is sent, what answers it, and whether the server is still there."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from .deadline import TooLate, within
from .errors import ConnectionLost, OxipushError, Refused

PROTOCOL = Subprotocol("oxipush.v1")
#: How long a close frame may wait for its answer, in seconds.
CLOSE_TIMEOUT = 2.0
#: The gateway's [socket] max_pending.
MOST_PENDING = 16

Data: TypeAlias = dict[str, Any]


@dataclass
class Asked:
    """Something whose answer comes in the order in which it was asked."""

    event: str
    name: str
    answer: asyncio.Future[Data]
    #: What it said as `resume`; empty: nothing.
    resume: Data = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a connection ended; `code` is None where there was no close frame."""

    code: int | None
    reason: str


class NotOxipush(OxipushError):
    """The server speaks WebSocket, but not this protocol."""

    def __init__(self) -> None:
        super().__init__("handshake", "the server did not choose oxipush.v1: is this the address of a gateway's /ws?")


@dataclass
class Reading:
    """What a connection knows of one stream beyond the client's place."""

    #: Up to where pushes came on it.
    came: int = 0
    #: The server told the client's place in it, or pushed from it.
    placed: bool = False
    #: A resume was sent, and what answers it did not come yet.
    resuming: bool = False
    #: The epoch of the last `resume`, until it is answered.
    resumed_from: str | None = None
    #: So many gaps in a row were found at this `seq`.
    gaps: int = 0
    gap_at: int = -1


@dataclass(eq=False)
class Connection:
    """An open connection. `hear` is called with each event, `make_room` waited for before each is read."""

    socket: ClientConnection
    hear: Callable[[Connection, str, Data], None]
    make_room: Callable[[], Awaitable[bool]]
    asked: deque[Asked] = field(default_factory=deque)
    waiting: dict[str, asyncio.Future[Data]] = field(default_factory=dict)
    pending: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_PENDING))
    #: Cards and rooms that were asked for on it.
    cards: set[str] = field(default_factory=set)
    rooms: set[str] = field(default_factory=set)
    reading: dict[str, Reading] = field(default_factory=dict)
    #: Set once by `drain`, with its milliseconds.
    draining: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: asyncio.Future[Ending] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    joined_at: float | None = None
    #: How many seconds the client's proof holds, and that this was told anew.
    expires_in: float = 0.0
    expiry_told: asyncio.Event = field(default_factory=asyncio.Event)
    #: What the client itself ends it with, where the server has not.
    own_reason: str = ""
    _last_heard: float = 0.0
    _is_reading: bool = True
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _order: asyncio.Lock = field(default_factory=asyncio.Lock)
    _refs: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @staticmethod
    async def dial(url: str, timeout: float, max_message: int, options: Mapping[str, Any]) -> ClientConnection:
        """A socket whose handshake is done. Raises what `websockets` does, and NotOxipush."""
        settings: dict[str, Any] = {
            "subprotocols": [PROTOCOL],
            "compression": None,
            # silence is found by `ping_interval`, which a library of any language can do
            "ping_interval": None,
            "open_timeout": timeout,
            "close_timeout": CLOSE_TIMEOUT,
            "max_size": max_message,
        }
        socket = await connect(url, **settings, **options)
        if socket.subprotocol != PROTOCOL:
            await socket.close(1002)
            raise NotOxipush()
        return socket

    def start(self, name: str, ping_interval: float, pong_timeout: float) -> None:
        """Reads from now on."""
        self._last_heard = asyncio.get_running_loop().time()
        reader = asyncio.create_task(self._read(), name=f"oxipush {name} reader")
        reader.add_done_callback(self._finish)
        heartbeat = asyncio.create_task(self._keep_alive(ping_interval, pong_timeout), name=f"oxipush {name} heartbeat")
        self._tasks = [reader, heartbeat]

    async def send(self, event: str, data: object = None, ref: str | None = None) -> None:
        """Raises ConnectionLost."""
        message: Data = {"event": event}
        if data is not None:
            message["data"] = data
        if ref is not None:
            message["ref"] = ref
        try:
            await self.socket.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
        except ConnectionClosed:
            raise ConnectionLost() from None

    async def ask(self, event: str, name: str, data: Data) -> Data:
        """Sends what is answered in order. Raises Refused and ConnectionLost."""
        asked = Asked(event, name, asyncio.get_running_loop().create_future(), data.get("resume", {}))
        # their order is that of the answers
        async with self._order:
            if self.ended.done():
                raise ConnectionLost()
            self.asked.append(asked)
            await self.send(event, data)
        return await asked.answer

    async def ask_by_ref(self, event: str, data: Any) -> Data:
        """Sends a push or a message. Raises Refused and ConnectionLost."""
        async with self.pending:
            if self.ended.done():
                raise ConnectionLost()
            ref = str(next(self._refs))
            answer: asyncio.Future[Data] = asyncio.get_running_loop().create_future()
            self.waiting[ref] = answer
            try:
                if event == "message":
                    await self.send(event, data, ref)
                else:
                    await self.send(event, {**data, "ref": ref})
                return await answer
            finally:
                self.waiting.pop(ref, None)

    def answered(self, event: str, name: str, data: Data) -> Asked | None:
        """The oldest question, if it asked for this and of this name."""
        oldest = self.asked[0] if self.asked else None
        # a join without a card has no name
        if oldest is None or oldest.event != event or oldest.name not in ("", name):
            return None
        asked = self.asked.popleft()
        if not asked.answer.done():
            asked.answer.set_result(data)
        return asked

    def answered_by_ref(self, data: Data) -> None:
        """What a push or a message is answered by."""
        waiting = self.waiting.get(str(data.get("ref")))
        if waiting is not None and not waiting.done():
            waiting.set_result(data)

    def refused(self, data: Data) -> bool:
        """Gives an error to what it answers; False: to nothing."""
        error = Refused(str(data.get("code")), str(data.get("message", "")))
        if "ref" in data:
            answer = self.waiting.get(str(data["ref"]))
        elif self.asked and error.code != "bad_ack":
            answer = self.asked.popleft().answer
        else:
            return False
        if answer is not None and not answer.done():
            answer.set_exception(error)
        return True

    def stream(self, key: str) -> Reading:
        return self.reading.setdefault(key, Reading())

    async def answer_all(self) -> None:
        """Waits until everything that was asked on it is answered, or it has ended."""
        while not self.ended.done():
            open_questions = [asked.answer for asked in self.asked] + list(self.waiting.values())
            unanswered = [answer for answer in open_questions if not answer.done()]
            if not unanswered:
                return
            await asyncio.wait(unanswered)

    async def close(self, reason: str = "") -> None:
        """Closes in order, with 1000."""
        self.own_reason = reason
        await self.socket.close(1000)
        await self._stop()

    def abort(self, reason: str) -> None:
        """Breaks it off."""
        self.own_reason = reason
        self.socket.transport.abort()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._is_reading = False
            await self.make_room()
            self._is_reading = True
            self._last_heard = loop.time()
            try:
                message = await self.socket.recv()
            except ConnectionClosed:
                return
            self._last_heard = loop.time()
            try:
                heard = json.loads(message)
                event, data = heard["event"], heard.get("data")
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            self.hear(
                self, str(event), {"pushes": data} if isinstance(data, list) else data if isinstance(data, dict) else {}
            )

    def _finish(self, reader: asyncio.Task[None]) -> None:
        """The connection is over: nothing that waits is answered any more."""
        if not reader.cancelled() and reader.exception() is not None:
            self.abort(f"a fault of this library: {reader.exception()!r}")
        close = self.socket.protocol.close_rcvd
        code = None if close is None or close.code == 1005 else close.code
        reason = self.own_reason if close is None else close.reason
        if not self.ended.done():
            self.ended.set_result(Ending(code, reason))
        for answer in [asked.answer for asked in self.asked] + list(self.waiting.values()):
            if not answer.done():
                answer.set_exception(ConnectionLost())
                # nobody may be waiting for it
                answer.exception()
        self.asked.clear()
        for task in self._tasks:
            task.cancel()

    async def _keep_alive(self, ping_interval: float, pong_timeout: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silent_for = loop.time() - self._last_heard
            if silent_for < ping_interval or not self._is_reading:
                await asyncio.sleep(max(0.01, ping_interval - silent_for if self._is_reading else ping_interval))
                continue
            heard = self._last_heard
            asked_at = loop.time()
            try:
                await within(self.send("ping"), pong_timeout)
            except ConnectionLost:
                return
            except TooLate:
                pass
            await asyncio.sleep(asked_at + pong_timeout - loop.time())
            if self._last_heard == heard and self._is_reading:
                self.abort(f"nothing came for {pong_timeout:g} s after a ping")
                return
