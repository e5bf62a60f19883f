"""What a client is told when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .events import Event
from .storage import Storage
from .tokens import GetToken


@dataclass(frozen=True)
class Card:
    """A card, and as which app it is joined. An empty name: the one of the token."""

    name: str
    app: str = ""


@dataclass(frozen=True)
class Options:
    """README.md has a table of them. Times are in seconds."""

    url: str
    cards: Sequence[Card]
    rooms: Sequence[str] = ()
    device: str | None = None
    token: str | None = None
    get_token: GetToken | None = None
    storage: Storage | None = None
    ack: Literal["auto", "manual"] = "auto"
    merge: bool = False
    on_event: Callable[[Event], None] | None = None
    queue: int = 64
    copies: int = 1000
    first_backoff: float = 1.0
    max_backoff: float = 30.0
    stable_after: float = 10.0
    connect_timeout: float = 10.0
    call_timeout: float = 10.0
    ping_interval: float = 25.0
    pong_timeout: float = 10.0
    ack_interval: float = 0.2
    drain_overlap: float = 1.0
    max_message: int = 1024 * 1024
    connect_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "first_backoff",
            "max_backoff",
            "connect_timeout",
            "call_timeout",
            "ping_interval",
            "pong_timeout",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be more than 0 seconds")
        for name in ("queue", "copies", "max_message"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("stable_after", "ack_interval", "drain_overlap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be less than 0 seconds")
        if self.ack not in ("auto", "manual"):
            raise ValueError(f"ack is {self.ack!r}; it must be 'auto' or 'manual'")
        if not self.url.startswith(("ws://", "wss://")):
            raise ValueError(f"url is {self.url!r}; it must begin with ws:// or wss://")
        names = [card.name for card in self.cards]
        if len(set(names)) != len(names):
            raise ValueError(f"cards names one twice: {names}")
