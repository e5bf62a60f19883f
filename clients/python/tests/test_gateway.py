"""The client with a real gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.gateway import ROOT, SECRET, Gateway, token

from oxipush import (
    Card,
    Client,
    Closed,
    Connected,
    Disconnected,
    Draining,
    Ended,
    Event,
    FileStorage,
    NotConnected,
    Presence,
    Push,
    Refused,
)
from oxipush.deadline import within

FAST: dict[str, Any] = {"first_backoff": 0.05, "max_backoff": 0.3, "ack_interval": 0.02}


class Application:
    """A client, what it took, and what it was told."""

    def __init__(self, gateway: Gateway, **options: Any) -> None:
        self.events: list[Event] = []
        self.client = Client(gateway.ws, on_event=self.events.append, **{"card": "alice", **FAST, **options})
        self.taken: asyncio.Queue[Push] = asyncio.Queue()
        self.taker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Application:
        await within(self.client.__aenter__(), 60)
        self.taker = asyncio.create_task(self.take())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        if self.taker is not None:
            await asyncio.gather(self.taker, return_exceptions=True)

    async def take(self) -> None:
        async for push in self.client.pushes():
            self.taken.put_nowait(push)

    async def next(self) -> Push:
        return await within(self.taken.get(), 60)

    async def contents(self, count: int) -> list[Any]:
        return [(await self.next()).content for _ in range(count)]

    async def until_told(self, kind: type[Event], count: int = 1) -> list[Event]:
        """Waits for so many events of a kind."""
        for _ in range(4000):
            found = [event for event in self.events if isinstance(event, kind)]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.005)
        raise AssertionError(f"no {kind.__name__} in {self.events}")


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway() as gateway:
        yield gateway


async def acknowledged(gateway: Gateway, card: str, device: str, seq: int) -> None:
    """Waits until a device has acknowledged so much."""
    for _ in range(2000):
        if await gateway.acknowledged(card, device) == seq:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{device} has acknowledged {await gateway.acknowledged(card, device)}, not {seq}")


async def test_a_client_gets_texts_json_and_who_pushed(gateway: Gateway) -> None:
    async with Application(gateway) as alice:
        for content in ("hello", "", {"score": [2, 1.5]}, [None], 0, False, 'ünï\u0000 "q"'):
            pushed = await gateway.push(content, to="alice")
            push = await alice.next()
            assert (push.id, push.content, push.sender, push.room, push.seq) == (pushed, content, "shop", None, None)
            assert push.ts > 1_700_000_000_000


async def test_a_client_of_several_cards_gets_the_pushes_of_each_until_it_leaves(gateway: Gateway) -> None:
    async with Application(gateway, card=None, cards=[Card("alice", "web"), "team"]) as both:
        await gateway.push("to alice", to="alice", appID="web")
        await gateway.push("to the phone", to="alice", appID="phone")
        await gateway.push("to the team", to="team")
        assert await both.contents(2) == ["to alice", "to the team"]
        await both.client.leave("team")
        await gateway.push("to nobody", to="team")
        await gateway.push("to alice again", to="alice")
        assert await both.contents(1) == ["to alice again"]
        with pytest.raises(ValueError, match="only card"):
            await both.client.leave("alice")


async def test_rooms_tell_who_is_there_and_are_left() -> None:
    async with Gateway(ROOMS__PRESENCE="chat-*", ROOMS__CLIENT_PUSH="chat-*", EVENTS__KINDS="message") as gateway:
        async with Application(gateway) as alice, Application(gateway, card="bob", rooms=["chat-1"]) as bob:
            room = await alice.client.subscribe("chat-1")
            assert (room.count, sorted(room.present or ())) == (2, ["alice", "bob"])
            told = await bob.until_told(Presence, 2)
            assert [(event.card, event.action) for event in told if isinstance(event, Presence)][1] == ("alice", "join")
            # own pushes reach the others, and with echo the client itself
            sent = await alice.client.push({"say": "hi"}, room="chat-1")
            heard = await bob.next()
            assert (heard.id, heard.content, heard.sender, heard.room) == (sent, {"say": "hi"}, "alice", "chat-1")
            await alice.client.push("echo", room="chat-1", echo=True)
            assert (await alice.contents(1), await bob.contents(1)) == (["echo"], ["echo"])
            with pytest.raises(Refused, match="not_pushed"):
                await alice.client.push("no", to=["bob"])
            assert len(await alice.client.message({"typed": "in a form"})) == 26
            await alice.client.unsubscribe("chat-1")
            await bob.until_told(Presence, 3)
            await gateway.push("to the room", room="chat-1")
            await gateway.push("to alice", to="alice")
            assert (await alice.contents(1), await bob.contents(1)) == (["to alice"], ["to the room"])


async def test_a_token_is_renewed_before_its_end_and_the_connection_stays() -> None:
    async with Gateway(TOKEN__SECRET=SECRET, TOKEN__LEEWAY="0s") as gateway:
        given: list[str] = []

        async def get_token() -> str:
            given.append(token(sub="alice", ttl=2 if len(given) < 2 else 3600))
            return given[-1]

        async with Application(gateway, get_token=get_token) as alice:
            while len(given) < 3:
                await asyncio.sleep(0.05)
            await gateway.push("hello", to="alice")
            assert await alice.contents(1) == ["hello"]
            assert not [event for event in alice.events if isinstance(event, Disconnected)]


async def test_a_client_comes_back_with_a_new_token_and_one_that_has_none_ends() -> None:
    async with Gateway(TOKEN__SECRET=SECRET, TOKEN__LEEWAY="0s") as gateway:
        tokens = [token(sub="alice", ttl=-60), token(sub="alice")]
        async with Application(gateway, get_token=lambda: tokens.pop(0)) as alice:
            await gateway.push("hello", to="alice")
            assert await alice.contents(1) == ["hello"]
        with pytest.raises(Ended) as ended:
            async with Client(gateway.ws, card="alice", token=token(sub="alice", ttl=-60)):
                pass
        assert ended.value.cause == "token_expired"
        with pytest.raises(Ended, match="wrong_card"):
            async with Client(gateway.ws, card="bob", token=token(sub="alice")):
                pass


async def test_stored_pushes_wait_for_the_device_and_are_acknowledged_when_the_next_is_asked_for(
    gateway: Gateway,
) -> None:
    for number in range(5):
        await gateway.push(number, to="alice", offline=True)
    async with Client(gateway.ws, card="alice", device="phone", **FAST) as client:
        pushes = client.pushes()
        assert [(await anext(pushes)).content for _ in range(3)] == [0, 1, 2]
        await acknowledged(gateway, "alice", "phone", 2)
        await pushes.aclose()
    # the third one was not done with, and comes again
    async with Application(gateway, device="phone") as phone:
        assert await phone.contents(3) == [2, 3, 4]
        await acknowledged(gateway, "alice", "phone", 5)


async def test_the_application_acknowledges_by_itself(gateway: Gateway) -> None:
    for number in range(3):
        await gateway.push(number, to="alice", offline=True)
    async with Application(gateway, device="phone", ack="manual") as phone:
        pushes = [await phone.next() for _ in range(3)]
        assert await gateway.acknowledged("alice", "phone") == 0
        phone.client.ack(pushes[1])
        await acknowledged(gateway, "alice", "phone", 2)
    async with Application(gateway, device="phone") as phone:
        assert await phone.contents(1) == [2]


async def test_a_gateway_that_is_killed_or_stopped_and_started_again_costs_no_stored_push_and_doubles_none() -> None:
    async with Gateway() as gateway:
        async with Application(gateway, device="phone", rooms=["news"]) as phone:
            expected = []
            for round, how in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]):
                for where in ({"to": "alice"}, {"room": "news"}):
                    await gateway.push(f"{round} before {where}", **where, offline=True)
                    expected.append(f"{round} before {where}")
                assert sorted(await phone.contents(2)) == sorted(expected[-2:])
                await gateway.end(how)
                with pytest.raises(NotConnected):
                    await phone.until_told(Disconnected, round + 1)
                    await phone.client.push("nowhere", room="news")
                await gateway.start()
                for where in ({"to": "alice"}, {"room": "news"}):
                    await gateway.push(f"{round} after {where}", **where, offline=True)
                    expected.append(f"{round} after {where}")
                assert sorted(await phone.contents(2)) == sorted(expected[-2:])
            await phone.until_told(Connected, 4)
            assert phone.taken.empty()


async def test_a_drain_behind_a_load_balancer_leaves_no_moment_without_a_connection() -> None:
    """Two gateways with one address, as behind a load balancer: the client is on both for a moment."""
    async with Gateway(DRAIN__RECONNECT_JITTER="8s", NODE__ID="old") as old, Gateway() as new:
        balancer = Balancer([old, new])
        async with balancer:
            options: dict[str, Any] = {"first_backoff": 0.05, "max_backoff": 0.1, "drain_overlap": 3.0}
            told: list[Event] = []
            async with Client(balancer.url, card="alice", on_event=told.append, **options) as client:
                pushes = client.pushes()
                await old.push("on the old one", to="alice")
                assert (await within(anext(pushes), 60)).content == "on the old one"
                balancer.backends = [new]
                # as a drain does it: told, and closed with 3000 after four to eight seconds
                await old.call("POST", "/rebalance", {"node": "old", "keep": 0})
                await new_is_joined(new)
                await old.push("on the old one still", to="alice")
                assert (await within(anext(pushes), 60)).content == "on the old one still"
                await new.push("on the new one", to="alice")
                assert (await within(anext(pushes), 60)).content == "on the new one"
                while (await old.call("GET", "/isOnline?cardID=alice"))["result"] == "yes":
                    await asyncio.sleep(0.05)
                assert [event for event in told if isinstance(event, Draining)]
                # it was never without a connection
                assert not [event for event in told if isinstance(event, Disconnected)]


async def new_is_joined(gateway: Gateway) -> None:
    for _ in range(2000):
        if (await gateway.call("GET", "/isOnline?cardID=alice"))["result"] == "yes":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody joined the new one")


class Balancer:
    """Passes each connection on to the first backend; it may cut them after so many bytes of the gateway's."""

    def __init__(self, backends: list[Gateway]) -> None:
        self.backends = backends
        self.cut_after: int | None = None
        self.count = 0

    async def __aenter__(self) -> Balancer:
        self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/ws"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self.backends[0].ports["SOCKET"].number)
        except OSError:
            return writer.close()

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, bound: int | None) -> None:
            sent = 0
            while data := await source.read(65536):
                data = data if bound is None else data[: bound - sent]
                target.write(data)
                sent += len(data)
                await target.drain()
                if bound is not None and sent >= bound:
                    writer.transport.abort()
                    return ours.transport.abort()
            target.close()

        bound, self.cut_after = self.cut_after, None
        await asyncio.gather(copy(reader, ours, None), copy(theirs, writer, bound), return_exceptions=True)


async def test_a_connection_that_is_cut_at_any_byte_costs_and_doubles_no_stored_push() -> None:
    async with Gateway(STORE__MAX_DEVICES="1000") as gateway, Balancer([gateway]) as balancer:
        ids = [await gateway.push(f"push {number}", to="alice", offline=True) for number in range(4)]
        # the whole conversation: handshake, joined, stream, four pushes
        for bound in range(1, 1100, 13):
            balancer.cut_after, before = bound, balancer.count
            client = Client(balancer.url, card="alice", device=f"cut at {bound}", **(FAST | {"max_backoff": 0.05}))
            async with client:
                got = []
                async for push in client.pushes():
                    got.append(push.id)
                    if len(got) == len(ids):
                        break
                assert got == ids, f"cut after {bound} bytes"
            assert balancer.count == before + 2 or bound > 900, (
                f"cut after {bound} bytes: {balancer.count - before} connections"
            )


async def test_a_process_that_is_killed_goes_on_where_it_was(gateway: Gateway, tmp_path: Path) -> None:
    """Another process with the same storage and device: each push once, of the card and of the room."""
    program = textwrap.dedent(
        """
        import asyncio, sys
        from oxipush import Client, FileStorage

        async def main():
            url, path = sys.argv[1:]
            storage = FileStorage(path)
            async with Client(url, card="alice", device="worker", rooms=["news"], storage=storage, ack_interval=0.01) as client:
                print("joined", flush=True)
                async for push in client.pushes():
                    print("push", push.content, flush=True)

        asyncio.run(main())
        """
    )
    path = tmp_path / "places.json"
    taken: list[str] = []
    for round in range(4):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, gateway.ws, str(path), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await within(process.stdout.readline(), 60) == b"joined\n"
        if round == 0:
            await gateway.push("c0", to="alice", offline=True)
            await gateway.push("r0", room="news", offline=True)
        while len(taken) < 2 * round + 2:
            taken.append((await within(process.stdout.readline(), 60)).decode().removeprefix("push ").strip())
        assert sorted(taken[-2:]) == [f"c{round}", f"r{round}"]
        # both are written down: the application has asked for the next one
        for _ in range(1000):
            text = path.read_text() if path.exists() else "{}"
            seqs = [json.loads(value)["seq"] for value in json.loads(text).values()]
            if seqs == [round + 1, round + 1]:
                break
            await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
        await gateway.push(f"c{round + 1}", to="alice", offline=True)
        await gateway.push(f"r{round + 1}", room="news", offline=True)


async def test_the_ten_lines_of_the_readme_print_what_waits_and_what_comes(gateway: Gateway, tmp_path: Path) -> None:
    readme = (ROOT / "clients" / "python" / "README.md").read_text()
    program = readme.split("```python\n")[1].split("```")[0]
    assert "ws://127.0.0.1:8080/ws" in program
    program = program.replace("ws://127.0.0.1:8080/ws", gateway.ws)
    await gateway.push("hello", to="alice", offline=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", program, stdout=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None
    assert await within(process.stdout.readline(), 60) == b"alice hello\n"
    for _ in range(1000):
        if (await gateway.call("GET", "/rooms/news"))["count"] == 1:
            break
        await asyncio.sleep(0.01)
    await gateway.push("in a room", room="news")
    assert await within(process.stdout.readline(), 60) == b"news in a room\n"
    process.kill()
    await process.wait()


async def test_a_room_is_read_from_its_start_or_its_newest(gateway: Gateway) -> None:
    for number in range(3):
        await gateway.push(number, room="news", offline=True)
    async with Application(gateway) as new, Application(gateway, card="bob") as old:
        await new.client.subscribe("news")
        await old.client.subscribe("news", from_start=True)
        await gateway.push(3, room="news", offline=True)
        assert (await old.contents(4), await new.contents(1)) == ([0, 1, 2, 3], [3])
        assert not [event for event in old.events if type(event).__name__ == "Reset"]


async def test_a_client_that_is_disconnected_ends_and_one_that_is_wanted_back_comes(gateway: Gateway) -> None:
    async with Application(gateway) as alice, Application(gateway, card="bob") as bob:
        await gateway.call("POST", "/disconnect", {"card_id": "bob", "reconnect": True})
        await bob.until_told(Connected, 2)
        await gateway.push("welcome back", to="bob")
        assert await bob.contents(1) == ["welcome back"]
        await gateway.call("POST", "/disconnect", {"card_id": "alice", "reason": "signed out"})
        assert alice.taker is not None
        with pytest.raises(Ended) as ended:
            await within(asyncio.shield(alice.taker), 60)
        assert (ended.value.close_code, ended.value.reason) == (3504, "signed out")
        with pytest.raises(Ended):
            await alice.client.push("no", room="news")
        assert (await alice.until_told(Closed))[0] == Closed(3504, None, "signed out")


async def test_an_application_that_is_slow_stops_the_reading_and_loses_no_stored_push(gateway: Gateway) -> None:
    """The gateway gives such a client up (3001); it comes back for the rest when the application goes on."""
    count, content = 400, "x" * 8000
    told: list[Event] = []
    options = FAST | {"queue": 4, "ack_interval": 0.02}
    async with Client(gateway.ws, card="alice", device="slow", on_event=told.append, **options) as client:
        pushes = client.pushes()
        await gateway.push(f"0 {content}", to="alice", offline=True)
        assert (await anext(pushes)).content == f"0 {content}"
        for number in range(1, count):
            await gateway.push(f"{number} {content}", to="alice", offline=True)
        waiting = len(client._state.inbox._pushes)
        assert waiting <= 4 + 1, "it read on"
        for number in range(1, count):
            assert (await within(anext(pushes), 60)).content == f"{number} {content}"


async def test_a_call_in_the_loop_over_pushes_is_answered_while_many_wait() -> None:
    async with Gateway(ROOMS__CLIENT_PUSH="*") as gateway:
        async with Client(gateway.ws, card="alice", rooms=["r"], queue=2, call_timeout=10, **FAST) as client:
            pushes = client.pushes()
            await gateway.push("first", to="alice")
            await anext(pushes)
            for number in range(10):
                await gateway.push(number, to="alice")
            await asyncio.sleep(0.2)
            assert await client.push("an answer behind them", room="r")
            assert [(await anext(pushes)).content for _ in range(10)] == list(range(10))


async def test_a_gateway_that_is_away_is_waited_for() -> None:
    async with Gateway() as gateway:
        await gateway.end(signal.SIGKILL)
        alice = Application(gateway)
        entering = asyncio.create_task(alice.__aenter__())
        await asyncio.sleep(0.3)
        assert not entering.done()
        await gateway.start()
        await within(asyncio.shield(entering), 60)
        await gateway.push("hello", to="alice")
        assert await alice.contents(1) == ["hello"]
        await alice.__aexit__()


async def test_who_closes_twice_or_starts_twice_is_told(gateway: Gateway) -> None:
    client = Client(gateway.ws, card="alice")
    with pytest.raises(RuntimeError, match="not started"):
        await client.push("x", room="r")
    await client.close()
    async with client:
        with pytest.raises(RuntimeError, match="started before"):
            client.start()
        first = client.pushes()
        waiting = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="elsewhere"):
            await anext(client.pushes())
    await client.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


def test_a_file_that_is_no_storage_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "places.json").write_text("[]")
    with pytest.raises(ValueError, match="no storage"):
        FileStorage(tmp_path / "places.json")
    (tmp_path / "places.json").unlink()
    storage = FileStorage(tmp_path / "places.json")
    storage.set("a", "1")
    storage.set("b", "2")
    storage.remove("a")
    assert (storage.get("a"), FileStorage(tmp_path / "places.json").get("b")) == (None, "2")
