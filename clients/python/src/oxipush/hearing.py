"""What the events of a connection do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from .connection import Connection, Data
from .errors import ConnectionLost, OxipushError
from .events import Joined, Left, Presence, Problem, Push, Reset, Unsubscribed, number, text
from .options import Card
from .places import NO_STREAM
from .state import State
from .streams import Step

#: So many gaps in a row at one place, and the connection is left: P9 of docs/client-protocol.md.
MOST_GAPS = 3


class Hearing:
    """Hears for a client. `moved` is called when a place has changed, `run` runs what has to wait."""

    def __init__(
        self, state: State, moved: Callable[[], None], run: Callable[[Coroutine[Any, Any, None], str], object]
    ) -> None:
        self._state = state
        self._moved = moved
        self._run = run

    def hear(self, connection: Connection, event: str, data: Data) -> None:
        """One event; what is not known is passed over."""
        act = getattr(self, f"_on_{event}", None)
        if act is None:
            return
        try:
            act(connection, data)
        except (KeyError, TypeError, ValueError) as error:
            self._state.tell(Problem("bad_message", f"the server's {event} cannot be read: {error!r}"))

    def _on_joined(self, connection: Connection, data: Data) -> None:
        card = text(data["card_id"])
        asked = connection.answered("join", card, data)
        if asked is None:
            return
        cards = self._state.cards
        if asked.name == "" and "" in cards:
            self._state.cards = {card: Card(card, cards.pop("").app), **cards}
        self._entered(connection, f"card {card}", asked.resume)
        if card not in connection.cards:
            connection.cards.add(card)
            self._state.tell(Joined(card, text(data.get("app_id", "")), text(data.get("client", ""))))
        self._expires(connection, data)

    def _on_refreshed(self, connection: Connection, data: Data) -> None:
        connection.answered("refresh", "", data)
        self._expires(connection, data)

    def _expires(self, connection: Connection, data: Data) -> None:
        if "expires_in" in data:
            connection.expires_in = number(data["expires_in"])
            connection.expiry_told.set()

    def _on_left(self, connection: Connection, data: Data) -> None:
        card = text(data.get("card_id", ""))
        if connection.answered("leave", card, data) is None and self._state.cards.pop(card, None) is not None:
            self._state.streams.forget(f"card {card}")
            self._state.tell(Left(card))

    def _on_subscribed(self, connection: Connection, data: Data) -> None:
        room = text(data["room"])
        asked = connection.answered("subscribe", room, data)
        if asked is None:
            return
        key = f"room {room}"
        self._entered(connection, key, asked.resume)
        if "epoch" in data:
            connection.stream(key).resuming = False
            self._told(connection, key, data)

    def _on_unsubscribed(self, connection: Connection, data: Data) -> None:
        room = text(data["room"])
        if connection.answered("unsubscribe", room, data) is None and self._state.rooms.pop(room, None) is not None:
            self._state.streams.forget(f"room {room}")
            self._state.tell(Unsubscribed(room))

    def _on_pushed(self, connection: Connection, data: Data) -> None:
        connection.answered_by_ref(data)

    _on_received = _on_pushed

    def _on_error(self, connection: Connection, data: Data) -> None:
        if not connection.refused(data):
            self._state.tell(Problem(text(data["code"]), text(data.get("message", ""))))

    def _on_drain(self, connection: Connection, data: Data) -> None:
        if not connection.draining.done():
            connection.draining.set_result(number(data["reconnect_in_ms"]))

    def _on_presence(self, connection: Connection, data: Data) -> None:
        # during a drain both connections tell of it
        if self._state.current in (None, connection):
            told = Presence(text(data["room"]), text(data["card_id"]), text(data["action"]), text(data.get("node", "")))
            self._state.tell(told)

    def _on_stream(self, connection: Connection, data: Data) -> None:
        key = key_of(data)
        if not self._is_awaited(connection, key):
            reading = connection.stream(key)
            reading.resuming, reading.resumed_from = False, None
        self._told(connection, key, data)

    def _on_reset(self, connection: Connection, data: Data) -> None:
        key = key_of(data)
        reading = connection.stream(key)
        from_nothing = reading.resumed_from == NO_STREAM
        reading.resuming, reading.resumed_from = False, None
        reading.came, reading.placed = number(data["seq"]), True
        if self._state.streams.reset(key, text(data["epoch"]), reading.came) and not from_nothing:
            self._state.tell(Reset(data.get("card"), data.get("room")))
        self._moved()

    def _on_pushes(self, connection: Connection, data: Data) -> None:
        for push in data["pushes"]:
            self._on_push(connection, push)

    def _on_push(self, connection: Connection, data: Data) -> None:
        push = Push.read(data)
        streams = self._state.streams
        if push.mark is not None:
            reading = connection.stream(push.mark.key)
            if reading.resuming:
                return
            step = streams.look(push.mark)
            if step is Step.GAP:
                return self._on_gap(connection, push.mark.key)
            reading.came, reading.placed = max(reading.came, push.mark.seq), True
            # what is taken may be acknowledged on this connection, too, now
            self._moved()
            if step is Step.COPY:
                return
        new = streams.take(push)
        if new is not None:
            self._state.inbox.put(new)

    def _on_gap(self, connection: Connection, key: str) -> None:
        """Something is missing: resumes, on the same connection."""
        reading, place = connection.stream(key), self._state.streams.place(key)
        at = place.seq if place else 0
        reading.gaps = reading.gaps + 1 if reading.gap_at == at else 1
        reading.gap_at = at
        reading.resuming = True
        self._run(self._resume(connection, key, reading.gaps), "resume")

    async def _resume(self, connection: Connection, key: str, gaps: int) -> None:
        kind, name = key.split(" ", 1)
        if gaps >= MOST_GAPS:
            return await connection.close(f"the stream of {key} has a gap that stays")
        try:
            if kind == "room" and name in self._state.rooms:
                await connection.ask("subscribe", name, self._state.subscribe_data(name))
            elif kind == "card" and name in self._state.cards:
                await connection.ask("join", name, self._state.join_data(self._state.cards[name]))
        except ConnectionLost:
            pass
        except OxipushError as error:
            self._state.tell(Problem(error.code, error.message))
            await connection.close(f"{key} cannot be resumed: {error.message}")

    def _is_awaited(self, connection: Connection, key: str) -> bool:
        """The answer to the join or subscription that resumes this stream did not come yet: `stream` is of before."""
        kind, name = key.split(" ", 1)
        event = "subscribe" if kind == "room" else "join"
        return any(asked.event == event and asked.name == name for asked in connection.asked)

    def _entered(self, connection: Connection, key: str, resume: Data) -> None:
        if resume:
            reading = connection.stream(key)
            reading.came = max(reading.came, resume["seq"])
            reading.resumed_from = resume["epoch"]
        self._state.streams.entered(key)
        self._moved()

    def _told(self, connection: Connection, key: str, data: Data) -> None:
        seq = number(data["seq"])
        reading = connection.stream(key)
        reading.came, reading.placed = max(reading.came, seq), True
        self._state.streams.told(key, text(data["epoch"]), seq)
        self._moved()


def key_of(data: Data) -> str:
    """Whose stream an event is about."""
    return f"room {text(data['room'])}" if data.get("room") is not None else f"card {text(data['card'])}"
