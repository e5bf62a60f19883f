"""The client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from .acks import Acks
from .connection import CLOSE_TIMEOUT, Data
from .deadline import TooLate, within
from .entry import subscribe
from .errors import ConnectionLost, Ended, NoAnswer, NotConnected
from .events import Closed, Event, Push, text
from .options import Card, Options
from .state import Room, State, Subscription, log
from .storage import Storage
from .supervisor import Supervisor
from .tokens import GetToken


class Client:
    """A client of oxipush: it joins cards and rooms, gets their pushes, and comes back whenever its connection ends.

    Use it as `async with Client(url, card="alice") as client`, or call `start` and `close`. It belongs to one event loop.
    README.md explains the options.
    """

    def __init__(
        self,
        url: str,
        *,
        card: str | Card | None = None,
        cards: Sequence[str | Card] = (),
        rooms: Sequence[str] = (),
        device: str | None = None,
        token: str | None = None,
        get_token: GetToken | None = None,
        storage: Storage | None = None,
        ack: Literal["auto", "manual"] = "auto",
        merge: bool = False,
        on_event: Callable[[Event], None] | None = None,
        queue: int = 64,
        copies: int = 1000,
        first_backoff: float = 1.0,
        max_backoff: float = 30.0,
        stable_after: float = 10.0,
        connect_timeout: float = 10.0,
        call_timeout: float = 10.0,
        ping_interval: float = 25.0,
        pong_timeout: float = 10.0,
        ack_interval: float = 0.2,
        drain_overlap: float = 1.0,
        max_message: int = 1024 * 1024,
        connect_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is connected yet. Raises ValueError where an option is out of its bounds."""
        named = [*([card] if card is not None else []), *cards] or [Card("")]
        self._options = Options(
            url,
            [each if isinstance(each, Card) else Card(each) for each in named],
            rooms=tuple(dict.fromkeys(rooms)),
            device=device,
            token=token,
            get_token=get_token,
            storage=storage,
            ack=ack,
            merge=merge,
            on_event=on_event,
            queue=queue,
            copies=copies,
            first_backoff=first_backoff,
            max_backoff=max_backoff,
            stable_after=stable_after,
            connect_timeout=connect_timeout,
            call_timeout=call_timeout,
            ping_interval=ping_interval,
            pong_timeout=pong_timeout,
            ack_interval=ack_interval,
            drain_overlap=drain_overlap,
            max_message=max_message,
            connect_options=connect_options or {},
        )
        self._task: asyncio.Task[None] | None = None
        self._ended: Ended | None = None
        self._is_iterated = False

    async def __aenter__(self) -> Client:
        """Starts it, and waits until it has joined for the first time, however long that takes. Raises Ended."""
        self.start()
        try:
            await self.joined()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Connects from now on, in a task of its own. Raises RuntimeError where it was started before."""
        if self._task is not None:
            raise RuntimeError("this client was started before; make a new one")
        self._state = State(self._options)
        self._has_joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acks = Acks(self._state)
        self._supervisor = Supervisor(self._state, self._on_joined, self._acks.moved)
        self._task = asyncio.create_task(self._run(), name="oxipush client")

    async def joined(self) -> None:
        """Waits until it has joined for the first time. Raises Ended."""
        self._running()
        await asyncio.shield(self._has_joined)

    async def close(self) -> None:
        """Acknowledges what is taken, closes with 1000, and ends. Pushes that wait stay there to be taken."""
        if self._task is None:
            return
        if self._ended is None:
            try:
                await within(self._acks.flush(), CLOSE_TIMEOUT)
            except TooLate:
                log.warning("what is taken could not be acknowledged within %g s", CLOSE_TIMEOUT)
            self._end(Ended(1000, None, "closed by the application"))
            self._task.cancel()
        # it closes what is open
        await asyncio.wait([self._task])

    async def pushes(self) -> AsyncGenerator[Push, None]:
        """All pushes, as they come; one is taken, and acknowledged, when the next one is asked for (`ack="manual"`: by `ack`).

        It ends when `close` was called. Raises Ended where the client has ended otherwise, after the pushes that came before;
        RuntimeError where they are iterated elsewhere already.
        """
        self._running(or_ended=True)
        if self._is_iterated:
            raise RuntimeError("the pushes of this client are iterated elsewhere already; one loop has to hand them on")
        self._is_iterated = True
        try:
            while (push := await self._state.inbox.get()) is not None:
                yield push
                if self._options.ack == "auto":
                    self.ack(push)
        finally:
            self._is_iterated = False
        if self._ended is not None and self._ended.close_code != 1000:
            raise self._ended

    def ack(self, push: Push) -> None:
        """The application has done with this push, and with those of its card or room before. A live push needs none."""
        if self._state.streams.done(push):
            self._acks.moved()

    async def subscribe(self, room: str, *, from_start: bool = False) -> Room:
        """Subscribes to a room, now and on each later connection; waits until there is one. `from_start`: also gets what is
        stored in the room, where its place is not known from before.

        Raises Refused: the room is not subscribed to. Raises Ended.
        """
        self._running()
        waiter: asyncio.Future[Room] = asyncio.get_running_loop().create_future()
        subscription = self._state.rooms.setdefault(room, Subscription(from_start))
        subscription.waiters.append(waiter)
        connection = self._state.connected()
        with self._state.inbox.asking():
            if connection is not None:
                try:
                    await subscribe(self._state, connection, room)
                except ConnectionLost:
                    # the next connection does
                    pass
            return await waiter

    async def unsubscribe(self, room: str) -> None:
        """Leaves a room. Raises Refused (`not_subscribed`), NoAnswer and Ended."""
        self._running()
        subscription = self._state.rooms.pop(room, None)
        if subscription is not None:
            subscription.fail(NotConnected())
        self._state.streams.forget(f"room {room}")
        await self._take_back("unsubscribe", room, {"room": room})

    async def leave(self, card: str) -> None:
        """Leaves a card. Raises Refused, NoAnswer and Ended; ValueError: it is the last one, `close` instead."""
        self._running()
        if list(self._state.cards) == [card]:
            raise ValueError(f"{card!r} is the only card of this client; close it instead")
        self._state.cards.pop(card, None)
        self._state.streams.forget(f"card {card}")
        await self._take_back("leave", card, {"card_id": card})

    async def push(
        self, content: object, *, room: str | None = None, to: Sequence[str] = (), echo: bool = False
    ) -> str:
        """Pushes to a room or to cards, where the gateway lets this client; the push's id. `content`: JSON but None.

        Raises Refused, NotConnected, ConnectionLost, NoAnswer and Ended.
        """
        data: Data = {"content": content}
        if room is not None:
            data["room"] = room
        if to:
            data["to"] = list(to)
        if echo:
            data["echo"] = True
        return await self._ask("push", data)

    async def message(self, data: object) -> str:
        """Sends something to the back end; the message's id. `data`: JSON but None. Raises what `push` does."""
        return await self._ask("message", data)

    async def _ask(self, event: str, data: object) -> str:
        self._running()
        connection = self._state.connected()
        if connection is None:
            raise NotConnected()
        answer = await self._in_time(connection.ask_by_ref(event, data))
        return text(answer["id"])

    async def _take_back(self, event: str, name: str, data: Data) -> None:
        connection = self._state.connected()
        if connection is None:
            return
        names = connection.cards if event == "leave" else connection.rooms
        names.discard(name)
        try:
            await self._in_time(connection.ask(event, name, data))
        except ConnectionLost:
            # the next connection does not enter it
            pass

    async def _in_time(self, asking: Any) -> Data:
        with self._state.inbox.asking():
            try:
                answer: Data = await within(asking, self._options.call_timeout)
            except TooLate:
                raise NoAnswer(self._options.call_timeout) from None
        return answer

    def _running(self, *, or_ended: bool = False) -> None:
        if self._task is None:
            raise RuntimeError("this client was not started: use it as `async with Client(…) as client`")
        if self._ended is not None and not or_ended:
            raise self._ended

    def _on_joined(self) -> None:
        if not self._has_joined.done():
            self._has_joined.set_result(None)

    async def _run(self) -> None:
        acks = asyncio.create_task(self._acks.run(), name="oxipush acknowledgements")
        try:
            await self._supervisor.run()
        except Ended as ended:
            self._state.streams.write()
            self._end(ended)
        except Exception as error:
            log.exception("the client failed")
            self._end(Ended(None, "internal", f"a fault of this library: {error!r}"))
        finally:
            acks.cancel()
            await asyncio.gather(acks, return_exceptions=True)
            await self._supervisor.close()

    def _end(self, ended: Ended) -> None:
        """Nothing more comes: tells everybody who waits."""
        if self._ended is not None:
            return
        self._ended = ended
        self._state.inbox.end()
        if not self._has_joined.done():
            self._has_joined.set_exception(ended)
            # nobody may be waiting for it
            self._has_joined.exception()
        for subscription in self._state.rooms.values():
            subscription.fail(ended)
        self._state.tell(Closed(ended.close_code, ended.cause, ended.reason))
