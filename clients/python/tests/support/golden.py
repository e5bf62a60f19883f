"""The golden conversations of tests/golden."""

from __future__ import annotations

import json
from typing import Any

from .gateway import ROOT

FOLDER = ROOT / "tests" / "golden"


def conversations() -> dict[str, dict[str, Any]]:
    """All files by their names without `.json`."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    assert found, f"no conversations in {FOLDER}"
    return found


def lacks(actual: object, wanted: object) -> str | None:
    """What of `wanted` (a part of an object) is not in `actual`; None: nothing."""
    if not isinstance(actual, dict) or not isinstance(wanted, dict):
        return None if actual == wanted else f"{actual!r} is not {wanted!r}"
    for key, value in wanted.items():
        if key not in actual or actual[key] != value:
            return f"{key} is {actual.get(key)!r}, not {value!r}, in {actual!r}"
    return None
