"""What calls of a client raise."""

from __future__ import annotations


class OxipushError(Exception):
    """Any error of this library. `code` is for programs and never changes; the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Refused(OxipushError):
    """The gateway answered with an error; docs/errors.md has the codes."""


class NotConnected(OxipushError):
    """There is no connection that has joined; nothing was sent."""

    def __init__(self) -> None:
        super().__init__("not_connected", "there is no connection at the moment, and nothing was sent; try again")


class ConnectionLost(OxipushError):
    """The connection ended before the answer came: what was asked may have been done, or not."""

    def __init__(self) -> None:
        super().__init__("connection_lost", "the connection ended before the answer; it may have been done, or not")


class NoAnswer(OxipushError):
    """No answer came in time: what was asked may have been done, or not."""

    def __init__(self, seconds: float) -> None:
        super().__init__("no_answer", f"no answer within {seconds:g} s; it may have been done, or not")


class Ended(OxipushError):
    """The client has ended and does not come back by itself.

    `close_code` is that of the close that ended it (1000: `close()` was called), `cause` the code of the error that did; the other
    one is None.
    """

    def __init__(self, close_code: int | None, cause: str | None, reason: str) -> None:
        what = f"by {cause}" if close_code is None else f"with {close_code}"
        super().__init__("ended", f"the client has ended {what}: {reason or 'no reason given'}")
        self.close_code = close_code
        self.cause = cause
        self.reason = reason
