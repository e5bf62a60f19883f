"""A bound for how long something takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class TooLate(Exception):
    """It was not done in time."""


async def within(work: Awaitable[T], seconds: float) -> T:
    """What `work` gives. Raises TooLate, and what it raises.

    `asyncio.wait_for` before Python 3.12 loses a cancellation that comes together with the result.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    raise TooLate(f"not within {seconds:g} s")
