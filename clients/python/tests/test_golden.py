"""The client plays the golden conversations; tests/golden/README.md has their form."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from support.golden import conversations, lacks
from support.script import Line, ScriptedServer

from oxipush import (
    Card,
    Client,
    Closed,
    Connected,
    Event,
    Left,
    OxipushError,
    Presence,
    Problem,
    Push,
    Reset,
    Room,
    Unsubscribed,
)
from oxipush.deadline import TooLate, within

ALL = conversations()
PATIENCE = 5.0
LENIENT = {"error", "connected"}


class DictStorage(dict[str, str]):
    """A storage that the test can look into."""

    def set(self, key: str, text: str) -> None:
        self[key] = text

    def remove(self, key: str) -> None:
        self.pop(key, None)


class Play:
    """One conversation."""

    def __init__(self, conversation: dict[str, Any], server: ScriptedServer) -> None:
        self.options: dict[str, Any] = conversation.get("client", {})
        self.steps: list[dict[str, Any]] = conversation["steps"]
        self.server = server
        self.lines: dict[str, Line] = {}
        self.last = ""
        self.bound: dict[str, Any] = {}
        self.storage = DictStorage()
        for key, value in self.options.get("storage", {}).items():
            self.storage[key] = value if isinstance(value, str) else json.dumps(value)
        self.tokens = list(self.options.get("tokens", []))
        self.calls: dict[str, asyncio.Task[Any]] = {}
        self.events: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.pushes: asyncio.Queue[Push] = asyncio.Queue()
        self.last_push: Push | None = None
        self.was_done = time.monotonic()

    def start(self) -> None:
        options = self.options
        first, most = options.get("backoff_ms", [20, 100])
        self.client = Client(
            self.server.url,
            cards=[
                Card(card["card"], card["app"]) if isinstance(card, dict) else card
                for card in options.get("cards", ["alice"])
            ],
            rooms=options.get("rooms", []),
            device=options.get("device"),
            token=options.get("token"),
            get_token=self.give_token if "tokens" in options else None,
            storage=self.storage,
            ack=options.get("ack", "auto"),
            merge=options.get("merge", False),
            on_event=self.hear,
            copies=options.get("copies", 1000),
            first_backoff=first / 1000,
            max_backoff=most / 1000,
            ping_interval=options.get("ping_ms", 60_000) / 1000,
            pong_timeout=options.get("pong_ms", 10_000) / 1000,
            ack_interval=options.get("ack_ms", 50) / 1000,
            connect_timeout=options.get("connect_ms", 10_000) / 1000,
            drain_overlap=0.1,
        )
        self.client.start()
        self.taker = asyncio.create_task(self.take())

    def give_token(self) -> str:
        token = self.tokens.pop(0)
        if token is None:
            raise RuntimeError("no token for now")
        return str(token)

    async def take(self) -> None:
        try:
            async for push in self.client.pushes():
                self.pushes.put_nowait(push)
        except OxipushError:
            pass

    def hear(self, event: Event) -> None:
        match event:
            case Connected():
                self.tell("connected")
            case Presence():
                self.tell("presence", room=event.room, card_id=event.card, action=event.action)
            case Reset():
                self.tell("reset", card=event.card, room=event.room)
            case Left():
                self.tell("left", card_id=event.card)
            case Unsubscribed():
                self.tell("unsubscribed", room=event.room)
            case Closed():
                self.tell("closed", code=event.code, error=event.error)
            case Problem():
                self.tell("error", code=event.code)

    def tell(self, kind: str, **told: Any) -> None:
        self.queue(kind).put_nowait(told)

    def queue(self, kind: str) -> asyncio.Queue[dict[str, Any]]:
        return self.events.setdefault(kind, asyncio.Queue())

    async def play(self) -> None:
        self.start()
        try:
            for number, step in enumerate(self.steps, 1):
                if "backend" in step:
                    continue
                where = f"step {number}, {json.dumps(step, ensure_ascii=False)}"
                patience = step.get("within_ms", PATIENCE * 1000) / 1000 + step.get("quiet_ms", 0) / 1000
                try:
                    await within(self.step(step), patience)
                except AssertionError as error:
                    raise AssertionError(f"{where}: {error}") from error
                except TooLate as error:
                    raise AssertionError(f"{where}: not within {patience} s; {self.leftovers()}") from error
                self.was_done = time.monotonic()
            assert not self.leftovers(), f"left over at the end: {self.leftovers()}"
        finally:
            await self.client.close()
            self.taker.cancel()
            for call in self.calls.values():
                call.cancel()
            await asyncio.gather(self.taker, *self.calls.values(), return_exceptions=True)

    def leftovers(self) -> str:
        """What came and has no step."""
        queues: dict[str, asyncio.Queue[Any]] = {f"on {name}": line.heard for name, line in self.lines.items()}
        queues |= {kind: queue for kind, queue in self.events.items() if kind not in LENIENT} | {"pushes": self.pushes}
        return ", ".join(f"{name}: {list(vars(queue)['_queue'])}" for name, queue in queues.items() if queue.qsize())

    async def step(self, step: dict[str, Any]) -> None:
        verb = next(verb for verb in VERBS if verb in step)
        if "after_ms" in step:
            early = self.was_done + step["after_ms"] / 1000
            await getattr(self, f"do_{verb}")(step)
            assert time.monotonic() >= early, f"after {time.monotonic() - self.was_done:.3f} s already"
        else:
            await getattr(self, f"do_{verb}")(step)

    def line(self, step: dict[str, Any]) -> Line:
        return self.lines[step.get("on", self.last)]

    async def do_connect(self, step: dict[str, Any]) -> None:
        line = await self.server.accept()
        request = line.socket.request
        assert request is not None and request.path == "/ws", request
        assert line.socket.subprotocol == "oxipush.v1"
        self.last = step["connect"]
        self.lines[self.last] = line

    async def do_refuse(self, step: dict[str, Any]) -> None:
        await self.server.refuse(step["refuse"], step.get("headers", {}))

    async def do_expect(self, step: dict[str, Any]) -> None:
        heard = await self.line(step).heard.get()
        assert self.matches(heard, step["expect"]), f"the client says {json.dumps(heard)}"

    async def do_acks(self, step: dict[str, Any]) -> None:
        wanted, seq = step["acks"], 0
        for _ in range(step["at_most"]):
            heard = await self.line(step).heard.get()
            assert heard["event"] == "ack" and seq < heard["data"]["seq"] <= wanted["seq"], f"it says {heard}"
            seq = heard["data"]["seq"]
            assert heard["data"] == wanted | {"seq": seq}, f"it says {heard}"
            if seq == wanted["seq"]:
                return
        raise AssertionError(f"no more than {seq} is acknowledged")

    async def do_send(self, step: dict[str, Any]) -> None:
        await self.line(step).send(self.filled(step["send"]))

    async def do_close(self, step: dict[str, Any]) -> None:
        await self.line(step).socket.close(step["close"], step.get("reason", ""))

    async def do_cut(self, step: dict[str, Any]) -> None:
        self.line(step).cut()
        await self.line(step).is_over.wait()

    async def do_closed(self, step: dict[str, Any]) -> None:
        line = self.line(step)
        await line.is_over.wait()
        if step["closed"] is not None:
            assert line.socket.close_code == step["closed"], f"closed with {line.socket.close_code}"

    async def do_quiet_ms(self, step: dict[str, Any]) -> None:
        before = {name: line.heard.qsize() for name, line in self.lines.items()}
        await asyncio.sleep(step["quiet_ms"] / 1000)
        for name, line in self.lines.items():
            assert line.heard.qsize() == before[name], self.leftovers()
        assert not self.server.knocks.qsize(), "it connects"

    async def do_call(self, step: dict[str, Any]) -> None:
        self.calls[step.get("as", "")] = asyncio.create_task(self.call(step["call"], step.get("with", {})))
        # it begins before the next step
        await asyncio.sleep(0)

    async def call(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        match name:
            case "subscribe":
                room: Room = await self.client.subscribe(given["room"])
                return {"present": list(room.present) if room.present is not None else None}
            case "unsubscribe":
                await self.client.unsubscribe(given["room"])
            case "leave":
                await self.client.leave(given["card"])
            case "push":
                return {"id": await self.client.push(**given)}
            case "message":
                return {"id": await self.client.message(given["data"])}
            case "ack":
                assert self.last_push is not None
                self.client.ack(self.last_push)
            case "close":
                await self.client.close()
            case _:
                raise ValueError(name)
        return {}

    async def do_answer(self, step: dict[str, Any]) -> None:
        call = self.calls.pop(step["answer"])
        if "error" in step:
            with pytest.raises(OxipushError) as raised:
                await call
            assert raised.value.code == step["error"], raised.value
        else:
            answer = await call
            assert not (missing := lacks(answer, step["is"])), missing

    async def do_event(self, step: dict[str, Any]) -> None:
        if step["event"] == "push":
            push = self.last_push = await self.pushes.get()
            content = push.content
            if isinstance(content, bytes):
                content = {"base64": base64.b64encode(content).decode()}
            told = {"id": push.id, "from": push.sender, "ts": push.ts, "content": content}
            told |= {"room": push.room, "card": push.card, "seq": push.seq}
        else:
            told = await self.queue(step["event"]).get()
        assert not (missing := lacks(told, step["is"])), missing

    async def do_stored(self, step: dict[str, Any]) -> None:
        def differs() -> str:
            now = {key: json.loads(self.storage[key]) if key in self.storage else None for key in step["stored"]}
            return "" if now == step["stored"] else f"the storage has {now}"

        end = time.monotonic() + PATIENCE - 0.2
        while differs():
            assert time.monotonic() < end, differs()
            await asyncio.sleep(0.005)

    async def do_restart(self, step: dict[str, Any]) -> None:
        for line in self.lines.values():
            line.cut()
        self.client._supervisor.abandon()
        assert self.client._task is not None
        self.client._task.cancel()
        self.taker.cancel()
        await asyncio.gather(self.client._task, self.taker, return_exceptions=True)
        self.events.clear()
        self.start()

    def matches(self, heard: Any, wanted: Any) -> bool:
        if isinstance(wanted, str) and wanted.startswith("$"):
            return wanted == "$any" or bool(self.bound.setdefault(wanted, heard) == heard)
        if isinstance(wanted, dict):
            return (
                isinstance(heard, dict)
                and heard.keys() == wanted.keys()
                and all(self.matches(heard[key], wanted[key]) for key in wanted)
            )
        return type(heard) is type(wanted) and bool(heard == wanted)

    def filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.filled(each) for key, each in value.items()}
        return self.bound.get(value, value) if isinstance(value, str) else value


VERBS = [name.removeprefix("do_") for name in vars(Play) if name.startswith("do_")]


@pytest.mark.parametrize("name", ALL)
async def test_the_client_keeps_to_the_conversation(name: str) -> None:
    async with ScriptedServer() as server:
        await Play(ALL[name], server).play()
