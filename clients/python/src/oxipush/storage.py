"""Where a client keeps its places over restarts."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """Texts by keys. Calls come one after the other, from the event loop: they should be short."""

    def get(self, key: str) -> str | None:
        """The text under `key`."""
        ...

    def set(self, key: str, text: str) -> None:
        """Puts a text there."""
        ...

    def remove(self, key: str) -> None:
        """Takes it away, if it is there."""
        ...


class FileStorage:
    """A JSON file, of one client at a time. It is replaced as a whole: a process that is killed leaves the old one or the new one.

    It is not forced to the disk: after a power cut some pushes may come once more.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises ValueError where the file is there and is not one of these, OSError where it cannot be read."""
        self.path = Path(path)
        self.texts: dict[str, str] = {}
        if self.path.exists():
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
                raise ValueError(
                    f"{self.path} is no storage of oxipush: it must be a JSON object of texts; name another file"
                )
            self.texts = found

    def get(self, key: str) -> str | None:
        return self.texts.get(key)

    def set(self, key: str, text: str) -> None:
        self.texts[key] = text
        self._write()

    def remove(self, key: str) -> None:
        if self.texts.pop(key, None) is not None:
            self._write()

    def _write(self) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".new")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self.texts, file, ensure_ascii=False)
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
