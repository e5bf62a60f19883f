"""How much a client has of a stream."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

#: The epoch of no stream: nothing is stored yet.
NO_STREAM = "00000000"


@dataclass(frozen=True)
class Place:
    """All up to `seq` of the numbering `epoch`; `id` is that of the push there, where it is known."""

    epoch: str = NO_STREAM
    seq: int = 0
    id: str | None = None

    def resume(self) -> dict[str, Any]:
        """As a join or a subscription says it."""
        said: dict[str, Any] = {"epoch": self.epoch, "seq": self.seq}
        if self.id is not None:
            said["id"] = self.id
        return said

    def to_text(self) -> str:
        """As it stands in a storage."""
        return json.dumps(self.resume(), separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Place | None:
        """What `to_text` wrote; None: it is something else."""
        try:
            found = json.loads(text)
            epoch, seq, push = found["epoch"], found["seq"], found.get("id")
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        good = isinstance(epoch, str) and re.fullmatch("[0-9a-f]{8}", epoch) and type(seq) is int and seq >= 0
        if not good or not isinstance(push, str | None):
            return None
        return cls(epoch, seq, push)
