"""Golden conversations are true: a real gateway, given the client's side of them, says the server's."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from support.gateway import Gateway, token
from support.golden import conversations
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from oxipush.deadline import TooLate, within

REAL = {name: each for name, each in conversations().items() if "real" in each}
# what a gateway chooses itself: another value than the file's, but the same one everywhere
CHOSEN = {"id", "client", "ts", "epoch", "node", "message"}
# the numbers of no stream are the same everywhere
FIXED = {"00000000"}


class Mirror:
    """Plays one conversation's client, and holds the gateway to the server's steps."""

    def __init__(self, conversation: dict[str, Any], gateway: Gateway) -> None:
        self.conversation = conversation
        self.gateway = gateway
        self.sockets: dict[str, ClientConnection] = {}
        self.last = ""
        self.began = time.monotonic()
        # the file's values and the gateway's, both ways
        self.to_real: dict[tuple[str, Any], Any] = {}
        self.to_file: dict[tuple[str, Any], Any] = {}
        self.tokens: dict[str, str] = {}

    def token(self, name: str) -> str:
        """The token that a name in the file stands for, made when it is used first."""
        claims = self.conversation["real"].get("tokens", {}).get(name)
        return self.tokens.setdefault(name, name if claims is None else token(**claims))

    def said(self, value: Any, field: str = "") -> Any:
        """What the client says, in the gateway's values."""
        if isinstance(value, dict):
            return {key: self.said(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self.said(each) for each in value]
        if field == "token":
            return self.token(value)
        return self.to_real.get((field, value), value)

    def compare(self, real: Any, wanted: Any, field: str, where: str) -> None:
        if field in CHOSEN and wanted not in FIXED and not isinstance(wanted, dict):
            if field == "message":
                assert isinstance(real, str) and real, f"{where}: no message"
                return
            key, back = (field, wanted), (field, real)
            assert self.to_real.setdefault(key, real) == real, (
                f"{where}: {field} is {real!r}, which was {self.to_real[key]!r}"
            )
            assert self.to_file.setdefault(back, wanted) == wanted, f"{where}: {real!r} is {self.to_file[back]!r} too"
        elif field == "expires_in":
            # a token may have been made for the connection before
            passed = time.monotonic() - self.began
            assert wanted - 2 - passed <= real <= wanted, f"{where}: expires_in is {real}, not {wanted}"
        elif isinstance(wanted, dict):
            assert isinstance(real, dict) and real.keys() == wanted.keys(), f"{where}: {real} is not like {wanted}"
            for key, each in wanted.items():
                self.compare(real[key], each, key, where)
        elif isinstance(wanted, list):
            assert isinstance(real, list) and len(real) == len(wanted), f"{where}: {real} is not {wanted}"
            for one, other in zip(real, wanted, strict=True):
                self.compare(one, other, "", where)
        else:
            assert type(real) is type(wanted) and real == wanted, f"{where}: {field} is {real!r}, not {wanted!r}"

    async def play(self) -> None:
        try:
            for number, step in enumerate(self.conversation["steps"], 1):
                where = f"step {number}, {json.dumps(step, ensure_ascii=False)}"
                try:
                    await within(self.step(step, where), 10)
                except (TooLate, ConnectionClosed) as error:
                    raise AssertionError(f"{where}: {error!r}") from error
        finally:
            for socket in self.sockets.values():
                socket.transport.abort()

    async def step(self, step: dict[str, Any], where: str) -> None:
        if "connect" in step:
            self.last = step["connect"]
            self.sockets[self.last] = await connect(
                self.gateway.ws, subprotocols=[Subprotocol("oxipush.v1")], proxy=None
            )
            assert self.sockets[self.last].subprotocol == "oxipush.v1"
            return
        if "backend" in step:
            method, path = step["backend"].split()
            await self.gateway.call(method, path, self.said(step["body"]) or None)
            return
        if "restart" in step:
            for each in self.sockets.values():
                each.transport.abort()
            return
        socket = self.sockets.get(step.get("on", self.last))
        if "expect" in step:
            assert socket is not None
            await asyncio.sleep(step.get("after_ms", 0) / 1000)
            await socket.send(json.dumps(self.said(step["expect"])))
        elif "acks" in step:
            assert socket is not None
            await socket.send(json.dumps({"event": "ack", "data": self.said(step["acks"])}))
        elif "send" in step:
            assert socket is not None
            heard = json.loads(await socket.recv())
            self.compare(heard, step["send"], "", f"{where}: it says {heard}")
        elif "close" in step:
            assert socket is not None
            with pytest.raises(ConnectionClosed):
                heard = await socket.recv()
                raise AssertionError(f"{where}: it says {heard!r} before it closes")
            assert socket.close_code == step["close"], where
            if "reason" in step:
                assert socket.close_reason == step["reason"], where
        elif "closed" in step:
            assert socket is not None
            await socket.close(step["closed"] or 1000)
        elif "cut" in step:
            assert socket is not None
            socket.transport.abort()
            await socket.wait_closed()
        else:
            assert step.keys() & {"event", "call", "answer", "stored", "quiet_ms"}, (
                f"{where}: unknown, or not for a real gateway"
            )


@pytest.mark.parametrize("name", REAL)
async def test_a_gateway_says_what_the_conversation_says(name: str) -> None:
    conversation = REAL[name]
    async with Gateway(**conversation["real"].get("settings", {})) as gateway:
        await Mirror(conversation, gateway).play()
