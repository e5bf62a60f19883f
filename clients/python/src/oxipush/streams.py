"""What a client has of the streams of its cards and rooms, over all its connections: P, K, S of docs/client-protocol.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from .copies import RecentIds
from .events import Mark, Push
from .places import NO_STREAM, Place
from .storage import Storage


class Step(Enum):
    """What a stored push is to a client."""

    NEXT = auto()
    COPY = auto()
    GAP = auto()


@dataclass
class Stream:
    """One stream."""

    #: What came.
    came: Place
    #: What the application has done with.
    taken: Place
    #: What is in the storage.
    written: Place | None
    #: Of what is taken: what the server has been told, or told itself.
    acknowledged: Place
    #: By an `ack`, which may be lost: not by the server itself.
    was_said: bool = False
    #: The `seq` of the last push that the application was given.
    given: int = 0
    #: One more with each numbering.
    generation: int = 0

    @classmethod
    def at(cls, place: Place, written: Place | None = None, generation: int = 0) -> Stream:
        """One that begins here."""
        return cls(place, place, written, place, generation=generation)

    def move(self, place: Place) -> bool:
        """Puts the place of what came; that of what is taken too, where nothing waits for the application: whether it did."""
        all_taken = self.taken == self.came
        self.came = place
        if all_taken:
            self.taken = place
        return all_taken


class Streams:
    """The streams of a client. Keys are `card NAME` and `room NAME`."""

    def __init__(self, storage: Storage | None, copies: int, failed: Callable[[str], None]) -> None:
        self._storage = storage
        self._failed = failed
        self._recent = RecentIds(copies)
        self._streams: dict[str, Stream] = {}

    def place(self, key: str) -> Place | None:
        """Where the client is; None: it was never told."""
        stream = self._find(key)
        return None if stream is None else stream.came

    def doubt_acks(self) -> None:
        """What was acknowledged may have been lost, with the connection on which it was."""
        for stream in self._streams.values():
            if stream.was_said:
                stream.acknowledged = Place(stream.taken.epoch)

    def owed(self, key: str, came: int) -> Place | None:
        """What is to be acknowledged on a connection on which so much came; None: nothing more than was."""
        stream = self._find(key)
        if stream is None:
            return None
        taken, before = stream.taken, stream.acknowledged
        seq = min(taken.seq, came)
        is_more = seq > before.seq or (before.epoch != taken.epoch and seq > 0)
        return Place(taken.epoch, seq) if is_more else None

    def acknowledge(self, key: str, place: Place) -> None:
        """The server has been told so."""
        stream = self._find(key)
        if stream is not None:
            stream.acknowledged, stream.was_said = place, True

    def entered(self, key: str) -> None:
        """The first answer came, and tells of no stream: its beginning is the place."""
        if self._find(key) is None:
            self._streams[key] = Stream.at(Place())

    def told(self, key: str, epoch: str, seq: int) -> None:
        """The server says that the client has all up to `seq`."""
        stream = self._find(key)
        if stream is None:
            self._streams[key] = Stream.at(Place(epoch, seq))
        elif (stream.came.epoch != epoch or stream.came.seq < seq) and stream.move(Place(epoch, seq)):
            stream.acknowledged, stream.was_said = stream.taken, False

    def reset(self, key: str, epoch: str, seq: int) -> bool:
        """The client's place means nothing any more; whether something may be missing by that."""
        stream = self._find(key)
        before = stream.came if stream else None
        generation = stream.generation + 1 if stream else 0
        written = stream.written if stream else None
        self._streams[key] = Stream.at(Place(epoch, seq), written, generation)
        return before is not None and before.epoch != NO_STREAM

    def look(self, mark: Mark) -> Step:
        """What a stored push is; nothing changes by that."""
        came = self.place(mark.key) or Place()
        if mark.seq <= came.seq:
            return Step.COPY
        return Step.GAP if mark.prev > came.seq else Step.NEXT

    def take(self, push: Push) -> Push | None:
        """A live push, or the next one of its stream: what the application is to get, if it is no copy."""
        is_new = self._recent.is_new(push.id)
        mark = push.mark
        if mark is None:
            return push if is_new else None
        self.entered(mark.key)
        stream = self._streams[mark.key]
        place = Place(stream.came.epoch, mark.seq, mark.id)
        if not is_new:
            stream.move(place)
            return None
        stream.came = place
        stream.given = mark.seq
        return Push(
            push.id, push.content, push.sender, push.ts, push.room, push.card, push.seq, mark, stream.generation
        )

    def done(self, push: Push) -> bool:
        """The application has done with a push, and with those before it in its stream; whether that moves anything."""
        mark = push.mark
        stream = self._find(mark.key) if mark else None
        if mark is None or stream is None or stream.generation != push.generation or mark.seq <= stream.taken.seq:
            return False
        # the last one that it was given: what came behind it were copies
        is_last = mark.seq >= stream.given
        stream.taken = stream.came if is_last else Place(stream.came.epoch, mark.seq, mark.id)
        return True

    def forget(self, key: str) -> None:
        """The client left it."""
        self._streams.pop(key, None)
        if self._storage is not None:
            try:
                self._storage.remove(f"oxipush {key}")
            except Exception as error:  # the application's own code
                self._failed(f"{key} cannot be removed: {error}")

    def write(self) -> None:
        """Brings the storage up to date."""
        if self._storage is None:
            return
        for key, stream in self._streams.items():
            if stream.written == stream.taken:
                continue
            try:
                self._storage.set(f"oxipush {key}", stream.taken.to_text())
            except Exception as error:  # the application's own code
                self._failed(f"the place of {key} cannot be written: {error}")
            else:
                stream.written = stream.taken

    def _find(self, key: str) -> Stream | None:
        stream = self._streams.get(key)
        if stream is not None or self._storage is None:
            return stream
        try:
            text = self._storage.get(f"oxipush {key}")
        except Exception as error:  # the application's own code
            self._failed(f"the place of {key} cannot be read: {error}")
            return None
        place = None if text is None else Place.of_text(text)
        if place is None:
            return None
        # the process before said so, or was about to
        stream = self._streams[key] = Stream.at(place, written=place)
        stream.was_said = True
        return stream
