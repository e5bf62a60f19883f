"""What the golden conversations do not reach: bounds, times, and what is left behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.gateway import ROOT
from support.script import Line, ScriptedServer

from oxipush import Client, Closed, ConnectionLost, Ended, Event, NoAnswer, Problem
from oxipush.backoff import Backoff, ComeBack
from oxipush.copies import RecentIds
from oxipush.deadline import TooLate, within
from oxipush.tokens import refresh_after


@asynccontextmanager
async def joined(server: ScriptedServer, **options: Any) -> AsyncIterator[tuple[Client, Line]]:
    """A client that has joined, and its connection."""
    client = Client(server.url, card="alice", first_backoff=0.02, max_backoff=0.1, **options)
    client.start()
    line = await within(server.accept(), 10)
    assert (await within(line.heard.get(), 10))["event"] == "join"
    await line.send({"event": "joined", "data": {"card_id": "alice", "app_id": "", "client": "01JD"}})
    await within(client.joined(), 10)
    try:
        yield client, line
    finally:
        await client.close()


def test_back_off_is_random_from_nothing_to_a_bound_that_doubles() -> None:
    for slow, first in ((False, 1), (True, 5)):
        tries = [Backoff(1, 30) for _ in range(2000)]
        for bound in [min(30, first * 2**number) for number in range(8)]:
            delays = [each.next(slow=slow) for each in tries]
            assert 0 <= min(delays) < bound / 50 and bound * 0.98 < max(delays) <= bound
    backoff = Backoff(1, 30)
    for _ in range(2000):
        assert 0 <= backoff.next() <= 30
    backoff.reset()
    assert backoff.next() <= 1
    assert all(0 <= Backoff(1, 30).delay(ComeBack.AFTER_MOVE) <= 5 for _ in range(100))
    assert all(0 <= Backoff(1, 30).delay(ComeBack.AFTER_RETURN) <= 1 for _ in range(100))
    assert all(7 <= Backoff(1, 30).after_refusal(7) <= 7 for _ in range(100))
    assert Backoff(1, 30).after_refusal(1_000_000) == 60


def test_every_close_code_of_the_docs_is_obeyed() -> None:
    table = (ROOT / "docs" / "close-codes.md").read_text()
    codes = [int(code) for code in re.findall(r"^\| (\d{4}) \|", table, re.MULTILINE)]
    assert len(codes) >= 18
    for code in codes:
        comes_back = ComeBack.after(code) is not ComeBack.NEVER
        assert comes_back == (3000 <= code < 3500 or code in (1000, 1011)), code
    assert ComeBack.after(3499) is ComeBack.USUAL and ComeBack.after(3999) is ComeBack.NEVER
    assert ComeBack.after(None) is ComeBack.USUAL and ComeBack.after(4000) is ComeBack.USUAL


def test_a_token_is_renewed_between_three_quarters_and_nine_tenths_of_its_time() -> None:
    times = [refresh_after(1000) for _ in range(1000)]
    assert 750 <= min(times) < 760 and 890 < max(times) <= 900
    assert refresh_after(0) == 1


def test_so_many_ids_are_remembered_and_no_more() -> None:
    recent = RecentIds(3)
    assert [recent.is_new(push) for push in "abcabcd"] == [True, True, True, False, False, False, True]
    assert [recent.is_new(push) for push in "bcda"] == [False, False, False, True]


async def test_no_more_than_sixteen_questions_are_open_at_once() -> None:
    async with ScriptedServer() as server, joined(server) as (client, line):
        calls = [asyncio.create_task(client.push(number, room="r")) for number in range(20)]
        asked = [await within(line.heard.get(), 5) for _ in range(16)]
        await asyncio.sleep(0.1)
        assert line.heard.empty()
        for nth, each in enumerate(asked):
            await line.send({"event": "pushed", "data": {"id": f"id {nth}", "ref": each["data"]["ref"]}})
        for nth in range(16, 20):
            each = await within(line.heard.get(), 5)
            await line.send({"event": "pushed", "data": {"id": f"id {nth}", "ref": each["data"]["ref"]}})
        assert await asyncio.gather(*calls) == [f"id {nth}" for nth in range(20)]


async def test_a_call_without_an_answer_ends_in_time_and_a_later_answer_does_no_harm() -> None:
    async with ScriptedServer() as server, joined(server, call_timeout=0.2) as (client, line):
        with pytest.raises(NoAnswer):
            await client.push("x", room="r")
        late = await within(line.heard.get(), 5)
        await line.send({"event": "pushed", "data": {"id": "late", "ref": late["data"]["ref"]}})
        call = asyncio.create_task(client.message({"n": 1}))
        asked = await within(line.heard.get(), 5)
        await line.send({"event": "received", "data": {"id": "in time", "ref": asked["ref"]}})
        assert await call == "in time"


async def test_what_waits_for_a_connection_that_is_cut_is_told_so() -> None:
    async with ScriptedServer() as server, joined(server) as (client, line):
        calls = [asyncio.create_task(client.push(number, room="r")) for number in range(18)]
        for _ in range(16):
            await within(line.heard.get(), 5)
        line.cut()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) for result in results), results


async def test_nothing_runs_on_after_a_client_was_closed_or_has_ended() -> None:
    async with ScriptedServer() as server:
        async with joined(server):
            pass
        async with joined(server, token="t") as (client, line):
            await line.socket.close(3504)
            with pytest.raises(Ended):
                async for _ in client.pushes():
                    pass
        entering = Client(server.url, card="alice")
        entering.start()
        await within(server.accept(), 5)
        await entering.close()
    await asyncio.sleep(0.05)
    assert not [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("oxipush")]


async def test_what_no_client_can_read_is_told_and_passed_over() -> None:
    told: list[Event] = []
    async with ScriptedServer() as server, joined(server, on_event=told.append) as (client, line):
        pushes = client.pushes()
        for data in (
            {},
            {"id": 1, "content": "x"},
            {"id": "a", "content": "%", "encoding": "base64"},
            {"id": "b", "content": 1, "seq": "1"},
        ):
            await line.send({"event": "push", "data": data})
        for text in (
            "[]",
            "1",
            "no JSON",
            '{"data":{}}',
            '{"event":"push","data":[1]}',
            '{"event":{}}',
            '{"event":"drain","data":{}}',
        ):
            await line.socket.send(text)
        await line.send({"event": "push", "data": {"id": "c", "content": "still here"}})
        assert (await within(anext(pushes), 5)).content == "still here"
        problems = [event.code for event in told if isinstance(event, Problem)]
        assert problems == ["bad_message"] * 6, told


async def test_an_application_whose_functions_fail_goes_on() -> None:
    class BrokenStorage:
        def get(self, key: str) -> str | None:
            raise OSError("the disk is away")

        def set(self, key: str, text: str) -> None:
            raise OSError("the disk is full")

        def remove(self, key: str) -> None:
            raise OSError("the disk is read-only")

    told: list[Event] = []

    def on_event(event: Event) -> None:
        told.append(event)
        raise RuntimeError("a fault of the application's")

    async with ScriptedServer() as server:
        async with joined(server, on_event=on_event, storage=BrokenStorage(), ack_interval=0.01) as (client, line):
            await line.send({"event": "push", "data": {"id": "a", "content": "hello"}})
            assert (await within(anext(client.pushes()), 5)).content == "hello"
            for _ in range(500):
                problems = {event.message for event in told if isinstance(event, Problem) and event.code == "storage"}
                if any("disk is away" in each for each in problems) and any(
                    "disk is full" in each for each in problems
                ):
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError(told)
    assert isinstance(told[-1], Closed)


@pytest.mark.parametrize(
    "options",
    [{"queue": 0}, {"copies": 0}, {"ack": "never"}, {"max_backoff": 0}, {"cards": ["a", "a"]}, {"drain_overlap": -1}],
)
def test_options_out_of_their_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Client("ws://127.0.0.1/ws", **options)
    with pytest.raises(ValueError, match="url"):
        Client("http://127.0.0.1/ws")


async def test_a_deadline_gives_the_result_the_error_or_is_too_late() -> None:
    async def after(seconds: float, result: Exception | int) -> int:
        await asyncio.sleep(seconds)
        if isinstance(result, Exception):
            raise result
        return result

    assert await within(after(0, 7), 5) == 7
    with pytest.raises(KeyError):
        await within(after(0, KeyError("k")), 5)
    with pytest.raises(TooLate):
        await within(after(60, 7), 0.01)
    waiting = asyncio.create_task(within(after(60, 7), 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
