"""What the parts of a client share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from .connection import Connection, Data
from .errors import OxipushError
from .events import Event, Problem
from .inbox import Inbox
from .options import Card, Options
from .streams import Streams
from .tokens import Tokens

log = logging.getLogger("oxipush")


@dataclass(frozen=True)
class Room:
    """A room as it was when the client subscribed; events tell what changes."""

    name: str
    #: How many cards are in it, and up to 100 of them; None: the gateway does not tell that of this room.
    count: int | None = None
    present: Sequence[str] | None = None


@dataclass
class Subscription:
    """A room that the client is to be in, and who waits for that."""

    from_start: bool = False
    waiters: list[asyncio.Future[Room]] = field(default_factory=list)

    def succeed(self, room: Room) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(room)
        self.waiters.clear()

    def fail(self, error: OxipushError) -> bool:
        """False: nobody waits, so that nobody hears of it."""
        waiters = [waiter for waiter in self.waiters if not waiter.done()]
        for waiter in waiters:
            waiter.set_exception(error)
        self.waiters.clear()
        return bool(waiters)


class State:
    """What outlives connections."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.inbox = Inbox(options.queue)
        self.tokens = Tokens(options.token, options.get_token)
        self.streams = Streams(options.storage, options.copies, lambda message: self.tell(Problem("storage", message)))
        self.cards: dict[str, Card] = {card.name: card for card in options.cards}
        self.rooms: dict[str, Subscription] = {room: Subscription() for room in options.rooms}
        #: The connection that calls and acknowledgements go to. During a drain: the first one, until the second has joined.
        self.current: Connection | None = None
        #: Whether joins say places: not to a gateway that stores nothing.
        self.says_places = True

    def tell(self, event: Event) -> None:
        """Gives an event to the application."""
        if isinstance(event, Problem):
            log.warning("%s: %s", event.code, event.message)
        else:
            log.debug("%s", event)
        if self.options.on_event is None:
            return
        try:
            self.options.on_event(event)
        except Exception:  # the application's own code
            log.exception("on_event failed")

    def connected(self) -> Connection | None:
        """The connection for calls, if it is open."""
        return None if self.current is None or self.current.ended.done() else self.current

    def join_data(self, card: Card) -> Data:
        """What a join says, but the first one's token and merge."""
        data: Data = {"card_id": card.name} if card.name else {}
        if card.app:
            data["app_id"] = card.app
        if self.options.device is not None:
            data["device"] = self.options.device
        return data | self._resume(f"card {card.name}" if card.name else None)

    def subscribe_data(self, room: str) -> Data:
        """What a subscription says."""
        data: Data = {"room": room}
        subscription = self.rooms.get(room)
        if subscription is not None and subscription.from_start and self.streams.place(f"room {room}") is None:
            self.streams.entered(f"room {room}")
        return data | self._resume(f"room {room}")

    def _resume(self, key: str | None) -> Data:
        place = self.streams.place(key) if key is not None and self.says_places else None
        return {} if place is None else {"resume": place.resume()}
