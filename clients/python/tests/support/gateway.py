"""A real gateway as a process of its own, on free ports and a folder of its own."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import hmac
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any

SECRET = "a secret for tests, of 32 bytes or more"
ROOT = Path(__file__).resolve().parents[4]


def program() -> str:
    """The gateway's binary: OXIPUSH_BIN, or the debug build."""
    return os.environ.get("OXIPUSH_BIN", str(ROOT / "target" / "debug" / "oxipush"))


class Port:
    """A port that no other test takes while this lives; its server may be restarted on it."""

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / "oxipush-test-ports"
        folder.mkdir(exist_ok=True)
        for _ in range(10_000):
            # below the ephemeral range: no outgoing connection takes it while its server is down
            self.number = random.randrange(10_000, 32_000)
            self.claim: IO[str] = open(folder / str(self.number), "w")
            try:
                fcntl.flock(self.claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", self.number))
                return
            except OSError:
                self.claim.close()
        raise RuntimeError("no free port")


class Gateway:
    """A running `oxipush`; ended with the block it is used in."""

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        self.folder = tempfile.TemporaryDirectory(prefix="oxipush-python-")
        self.ports = {section: Port() for section in ("SOCKET", "HTTP", "GRPC")}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.ports['SOCKET'].number}/ws"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['HTTP'].number}"

    def spawn(self) -> None:
        environment = {
            f"OXIPUSH__{section}__LISTEN": f"127.0.0.1:{port.number}" for section, port in self.ports.items()
        }
        environment |= {f"OXIPUSH__{key}": value for key, value in self.settings.items()}
        environment |= {"OXIPUSH__DATA__DIR": self.folder.name, "RUST_LOG": "warn,actix_http=off"}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OXIPUSH__")}
        self.process = subprocess.Popen(
            [program()],
            env=clean | environment,
            cwd=self.folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    async def start(self) -> None:
        self.spawn()
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway ended with {self.process.returncode}")
            try:
                await self.call("GET", "/readyz")
                return
            except (OSError, urllib.error.URLError):
                await asyncio.sleep(0.02)
        raise RuntimeError("the gateway is not ready within 90 s")

    async def end(self, how: signal.Signals) -> None:
        """Sends the signal and waits for the process's end."""
        assert self.process is not None
        self.process.send_signal(how)
        await asyncio.to_thread(self.process.wait, 60)

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            await self.end(signal.SIGKILL)
        self.folder.cleanup()

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """A call of the HTTP API, which must answer 200; its answer."""
        return await asyncio.to_thread(self._call, method, path, body, headers)

    def _call(self, method: str, path: str, body: object, headers: dict[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.http + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else text

    async def push(self, content: object, *, to: str | None = None, room: str | None = None, **more: object) -> str:
        """A push that must be accepted; its id."""
        target: dict[str, object] = {"to": [to]} if to is not None else {}
        if room is not None:
            target["room"] = room
        answer = await self.call("POST", "/push", {"from": "shop", "content": content, **target, **more})
        return str(answer["id"])

    async def acknowledged(self, card: str, device: str) -> int | None:
        """Up to where a device has acknowledged a card's stream."""
        answer = await self.call("GET", f"/cards/{card}/stream")
        return next(
            (int(each["seq"]) for each in answer["devices"] if each["name"] == device and each["declared"]), None
        )


def token(ttl: float = 3600, **claims: object) -> str:
    """A JWT of HS256, as a back end makes one; `ttl` in seconds."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    now = time.time()
    # issued before it ends, also where it has ended
    issued = int(min(now, now + ttl))
    payload = {"iat": issued, "exp": int(now + ttl), "jti": random.getrandbits(64), **claims}
    message = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, payload))
    return message + "." + encode(hmac.new(SECRET.encode(), message.encode(), hashlib.sha256).digest())
