"""A server that does what a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

QUIET: Any = object()


class Line:
    """One connection of a client."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.is_over = asyncio.Event()

    async def read(self) -> None:
        try:
            async for message in self.socket:
                self.heard.put_nowait(json.loads(message))
        except ConnectionClosed:
            pass
        self.is_over.set()

    async def send(self, message: object) -> None:
        await self.socket.send(json.dumps(message))

    def cut(self) -> None:
        """Ends the TCP connection."""
        self.socket.transport.abort()


class Knock:
    """A handshake that waits for its answer."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: asyncio.Future[tuple[int, dict[str, str]] | None] = asyncio.get_running_loop().create_future()
        self.line: asyncio.Future[Line] = asyncio.get_running_loop().create_future()


class ScriptedServer:
    """Each handshake waits until the test accepts or refuses it."""

    def __init__(self) -> None:
        self.knocks: asyncio.Queue[Knock] = asyncio.Queue()
        self._waiting: dict[int, Knock] = {}
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}/ws"

    async def __aenter__(self) -> ScriptedServer:
        self._server = await serve(
            self._talk,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("oxipush.v1")],
            process_request=self._asked,
            compression=None,
            ping_interval=None,
            open_timeout=60,
            close_timeout=2,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for knock in self._waiting.values():
            if not knock.answer.done():
                knock.answer.set_result((503, {}))
        for connection in list(self._server.connections):
            connection.transport.abort()
        self._server.close(close_connections=True)
        await self._server.wait_closed()

    async def accept(self) -> Line:
        """The next connection."""
        knock = await self.knocks.get()
        knock.answer.set_result(None)
        return await knock.line

    async def refuse(self, status: int, headers: dict[str, str]) -> None:
        """Answers the next handshake otherwise."""
        knock = await self.knocks.get()
        knock.answer.set_result((status, headers))

    async def _asked(self, connection: ServerConnection, request: Request) -> Response | None:
        knock = self._waiting[id(connection)] = Knock(request)
        self.knocks.put_nowait(knock)
        refusal = await knock.answer
        if refusal is None:
            return None
        del self._waiting[id(connection)]
        status, headers = refusal
        response = connection.respond(status, "refused\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response

    async def _talk(self, socket: ServerConnection) -> None:
        line = Line(socket)
        knock = self._waiting.pop(id(socket))
        if not knock.line.done():
            knock.line.set_result(line)
        await line.read()
