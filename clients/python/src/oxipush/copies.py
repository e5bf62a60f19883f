"""Telling copies of a push from other pushes."""

from __future__ import annotations

from collections import deque


class RecentIds:
    """The ids of the last pushes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._order: deque[str] = deque()
        self._ids: set[str] = set()

    def is_new(self, push: str) -> bool:
        """Whether it is not among them; then it is from now on."""
        if push in self._ids:
            return False
        self._ids.add(push)
        self._order.append(push)
        if len(self._order) > self._bound:
            self._ids.remove(self._order.popleft())
        return True
