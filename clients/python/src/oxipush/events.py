"""What a client tells its application: pushes, and events beside them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Mark:
    """Where a stored push stands in its stream."""

    key: str
    seq: int
    prev: int
    id: str


@dataclass(frozen=True)
class Push:
    """A push."""

    id: str
    #: A text, another JSON value, or bytes.
    content: Any
    #: What the back end, or the client that pushed, is called.
    sender: str = ""
    #: When it was accepted, in milliseconds since 1970.
    ts: int = 0
    room: str | None = None
    #: The card in whose stream it is stored; None: it is a live push, or in a room.
    card: str | None = None
    #: Its number in its stream; None: it is a live push.
    seq: int | None = None
    mark: Mark | None = field(default=None, repr=False)
    #: Which numbering of the stream `seq` belongs to, in this process.
    generation: int = field(default=0, repr=False)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Push:
        """The push of an event's data.

        Raises KeyError, TypeError or ValueError where it is none.
        """
        content = data["content"]
        if data.get("encoding") == "base64":
            content = base64.b64decode(content, validate=True)
        seq, room, card = data.get("seq"), data.get("room"), data.get("card")
        mark = None
        if seq is not None:
            key = f"room {text(room)}" if room is not None else f"card {text(card)}"
            mark = Mark(key, number(seq), number(data["prev"]), text(data["id"]))
        return cls(
            text(data["id"]), content, text(data.get("from", "")), number(data.get("ts", 0)), room, card, seq, mark
        )


@dataclass(frozen=True)
class Connected:
    """A connection has joined and subscribed; calls go to it from now on."""


@dataclass(frozen=True)
class Joined:
    """A connection is in a card. `client` is its id, which a back end can exclude or disconnect."""

    card: str
    app: str
    client: str


@dataclass(frozen=True)
class Left:
    """A new token took a card away; it is not joined again."""

    card: str


@dataclass(frozen=True)
class Unsubscribed:
    """A new token took a room away; it is not subscribed to again."""

    room: str


@dataclass(frozen=True)
class Presence:
    """In a room the first client of a card came, or its last one went, on a node."""

    room: str
    card: str
    #: `join` or `leave`.
    action: str
    node: str


@dataclass(frozen=True)
class Reset:
    """The numbers of a card's or a room's stream are others now: something may be missing, or come twice."""

    card: str | None
    room: str | None


@dataclass(frozen=True)
class Problem:
    """Something went wrong that no call was waiting for; the client goes on.

    `code` is one of the gateway's, or `handshake`, `token`, `storage`, `bad_message`.
    """

    code: str
    message: str


@dataclass(frozen=True)
class Draining:
    """The node leaves in so many milliseconds; the client goes to another one meanwhile."""

    reconnect_in_ms: int


@dataclass(frozen=True)
class Disconnected:
    """The connection ended; the client comes back. `code` is None where there was no close frame."""

    code: int | None
    reason: str


@dataclass(frozen=True)
class Closed:
    """The client has ended: with this close code, or by the error of this code."""

    code: int | None
    error: str | None
    reason: str


Event: TypeAlias = (
    Connected | Joined | Left | Unsubscribed | Presence | Reset | Problem | Draining | Disconnected | Closed
)


def text(value: object) -> str:
    """`value`, which must be a text: TypeError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def number(value: object) -> int:
    """`value`, which must be a whole number: TypeError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value
