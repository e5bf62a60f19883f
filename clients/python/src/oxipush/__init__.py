"""A client of the push gateway oxipush, for asyncio: see README.md."""

from .client import Client
from .errors import ConnectionLost, Ended, NoAnswer, NotConnected, OxipushError, Refused
from .events import (
    Closed,
    Connected,
    Disconnected,
    Draining,
    Event,
    Joined,
    Left,
    Presence,
    Problem,
    Push,
    Reset,
    Unsubscribed,
)
from .options import Card
from .state import Room
from .storage import FileStorage, Storage

__all__ = [
    "Card",
    "Client",
    "Closed",
    "Connected",
    "ConnectionLost",
    "Disconnected",
    "Draining",
    "Ended",
    "Event",
    "FileStorage",
    "Joined",
    "Left",
    "NoAnswer",
    "NotConnected",
    "OxipushError",
    "Presence",
    "Problem",
    "Push",
    "Refused",
    "Reset",
    "Room",
    "Storage",
    "Unsubscribed",
]
