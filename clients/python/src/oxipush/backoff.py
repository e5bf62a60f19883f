"""When a client comes back, and whether."""

from __future__ import annotations

import random
from enum import Enum, auto

#: A second's worth of back-off where the server has a fault, or no room: B3 of docs/client-protocol.md.
SLOW_FIRST = 5.0
#: Of a close with 3007, and with 3000 that no `drain` announced.
MOVE = 5.0
RETURN = 1.0
#: Retry-After is believed up to this.
MOST_RETRY_AFTER = 60.0


class ComeBack(Enum):
    """What a close asks for."""

    NEVER = auto()
    USUAL = auto()
    SLOW = auto()
    WITH_NEW_TOKEN = auto()
    AFTER_MOVE = auto()
    AFTER_RETURN = auto()

    @classmethod
    def after(cls, code: int | None) -> ComeBack:
        """After a close with this code; None: without one."""
        match code:
            case 1002 | 1003 | 1007 | 1010:
                return cls.NEVER
            case 1011 | 1012 | 1013 | 1014 | 3003 | 3006:
                return cls.SLOW
            case 3000:
                return cls.AFTER_RETURN
            case 3004:
                return cls.WITH_NEW_TOKEN
            case 3007:
                return cls.AFTER_MOVE
            case int() if 3500 <= code < 4000:
                return cls.NEVER
            case _:
                return cls.USUAL


class Backoff:
    """Random times that grow: full jitter."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._tries = 0

    def reset(self) -> None:
        """The next one is the first again."""
        self._tries = 0

    def next(self, *, slow: bool = False) -> float:
        """Seconds to wait before the next try."""
        first = max(self._first, SLOW_FIRST) if slow else self._first
        # beyond 2^30 the bound has been reached long before
        bound = min(self._most, first * 2 ** min(self._tries, 30))
        self._tries += 1
        return random.uniform(0, bound)

    def delay(self, come_back: ComeBack) -> float:
        """Seconds to wait after a close that asks for this."""
        match come_back:
            case ComeBack.AFTER_MOVE:
                return random.uniform(0, min(self._most, MOVE))
            case ComeBack.AFTER_RETURN:
                return random.uniform(0, min(self._most, RETURN))
            case _:
                return self.next(slow=come_back is ComeBack.SLOW)

    def after_refusal(self, retry_after: float | None) -> float:
        """Seconds to wait after a refused handshake."""
        return max(self.next(), min(retry_after or 0.0, MOST_RETRY_AFTER))
