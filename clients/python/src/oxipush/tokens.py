"""The client's token: T of docs/client-protocol.md."""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias

GetToken: TypeAlias = Callable[[], Awaitable[str] | str]

#: Of the time that a token holds, after this much a new one is asked for.
REFRESH_FROM, REFRESH_TO = 0.75, 0.9
#: Refreshes are so many seconds apart.
REFRESH_APART = 1.0


class NoToken(Exception):
    """The application gave none."""


class Tokens:
    """What a client proves itself by."""

    def __init__(self, token: str | None, get_token: GetToken | None) -> None:
        self._token = token
        self._get_token = get_token
        self._is_stale = token is None

    @property
    def can_ask(self) -> bool:
        """There is somebody to ask for a new one."""
        return self._get_token is not None

    def stale(self) -> None:
        """The one that there is holds no more."""
        self._is_stale = True

    async def current(self) -> str | None:
        """The token for a new connection; None: the client needs none. Raises NoToken."""
        if self._is_stale and self._get_token is not None:
            return await self.new()
        return self._token

    async def new(self) -> str:
        """A new one, of the application. Raises NoToken."""
        if self._get_token is None:
            raise NoToken("there is no get_token")
        try:
            given = self._get_token()
            token = await given if inspect.isawaitable(given) else given
        except Exception as error:  # the application's own code
            raise NoToken(f"get_token failed: {error!r}") from error
        if not isinstance(token, str) or not token:
            raise NoToken(f"get_token gave {type(token).__name__}, not a text")
        self._token, self._is_stale = token, False
        return token


def refresh_after(expires_in: float) -> float:
    """Seconds after which a token that holds this long is renewed."""
    return max(REFRESH_APART, expires_in * random.uniform(REFRESH_FROM, REFRESH_TO))
