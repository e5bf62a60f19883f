"""Joining and subscribing on a new connection: J of docs/client-protocol.md."""

from __future__ import annotations

import asyncio

from .connection import Connection, Data
from .errors import OxipushError, Refused
from .events import Problem
from .options import Card
from .state import Room, State, log
from .tokens import NoToken

#: The card may be had a little later.
LATER = {"card_full", "busy"}
#: Another token may mend it.
MENDED_BY_TOKEN = {"token_expired", "token_revoked", "bad_token", "no_token"}


class TryLater(Exception):
    """The connection cannot be entered now; another one may be, later."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CannotJoin(Exception):
    """No card is left that may be joined."""

    def __init__(self, error: Refused) -> None:
        super().__init__(error.message)
        self.error = error


async def enter(state: State, connection: Connection, token: str | None) -> None:
    """Joins all cards, then subscribes to all rooms.

    Raises TryLater, CannotJoin and ConnectionLost.
    """
    await _join_all(state, connection, token)
    await settle(state, connection)


async def settle(state: State, connection: Connection) -> None:
    """Brings a connection that has joined into the rooms that it is not in, and out of what calls left meanwhile.

    Raises ConnectionLost.
    """
    while rooms := [room for room in state.rooms if room not in connection.rooms]:
        await asyncio.gather(*(subscribe(state, connection, room) for room in rooms))
    for room in connection.rooms - state.rooms.keys():
        connection.rooms.discard(room)
        await _take_back(connection, "unsubscribe", room, {"room": room})
    for card in connection.cards - state.cards.keys():
        connection.cards.discard(card)
        await _take_back(connection, "leave", card, {"card_id": card})


async def _take_back(connection: Connection, event: str, name: str, data: Data) -> None:
    try:
        await connection.ask(event, name, data)
    except Refused as error:
        log.debug("%s %s: %s", event, name, error)


async def _join_all(state: State, connection: Connection, token: str | None) -> None:
    waiting = list(state.cards.values())
    asked_for_token = False
    last_refusal: Refused | None = None
    while waiting:
        joins = [
            _join_data(state, card, token, is_first=number == 0, connection=connection)
            for number, card in enumerate(waiting)
        ]
        answers = await asyncio.gather(
            *(connection.ask("join", card.name, data) for card, data in zip(waiting, joins, strict=True)),
            return_exceptions=True,
        )
        again: list[Card] = []
        needs_token = False
        for card, data, answer in zip(waiting, joins, answers, strict=True):
            if not isinstance(answer, BaseException):
                continue
            if not isinstance(answer, Refused):
                raise answer
            if answer.code in LATER:
                raise TryLater(answer.code, answer.message)
            if answer.code == "unsupported" and "resume" in data and "device" not in data:
                state.says_places = False
                again.append(card)
            elif answer.code in MENDED_BY_TOKEN and state.tokens.can_ask and not asked_for_token:
                needs_token = True
                again.append(card)
            elif answer.code == "no_token" and again:
                # the token stood in the join before, which was refused
                again.append(card)
            else:
                last_refusal = answer
                state.cards.pop(card.name, None)
                state.tell(Problem(answer.code, answer.message))
        if needs_token:
            asked_for_token = True
            try:
                token = await state.tokens.new()
            except NoToken as error:
                state.tokens.stale()
                raise TryLater("token", str(error)) from error
        waiting = again
    if not state.cards:
        raise CannotJoin(last_refusal or Refused("not_joined", "there is no card to join"))


def _join_data(state: State, card: Card, token: str | None, *, is_first: bool, connection: Connection) -> Data:
    data = state.join_data(card)
    if is_first and not connection.cards:
        if token is not None:
            data["token"] = token
        if state.options.merge:
            data["merge"] = True
    return data


async def subscribe(state: State, connection: Connection, room: str) -> None:
    """Subscribes to one room, and tells those who wait for it. Raises ConnectionLost."""
    connection.rooms.add(room)
    data = state.subscribe_data(room)
    try:
        try:
            answer = await connection.ask("subscribe", room, data)
        except Refused as error:
            if error.code != "unsupported" or "resume" not in data:
                raise
            state.says_places = False
            answer = await connection.ask("subscribe", room, {"room": room})
    except Refused as error:
        connection.rooms.discard(room)
        _refuse(state, room, error)
        return
    presence = answer.get("presence")
    told = Room(room)
    if isinstance(presence, dict):
        told = Room(room, presence.get("count"), tuple(presence.get("cards", ())))
    if subscription := state.rooms.get(room):
        subscription.succeed(told)


def _refuse(state: State, room: str, error: OxipushError) -> None:
    subscription = state.rooms.pop(room, None)
    if subscription is not None and not subscription.fail(error):
        state.tell(Problem(error.code, error.message))
