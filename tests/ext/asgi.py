"""Apps called without a server: each message that they send is seen as they send it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx

__all__ = ["client_of", "messages_of", "talk"]

Message = dict[str, Any]


def client_of(app: Any) -> httpx.AsyncClient:
    """Return a client to whom an unhandled error is a 500, as it is behind a server."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def messages_of(
    app: Any,
    path: str,
    method: str = "GET",
    before: Callable[[Message], Awaitable[None]] | None = None,
) -> list[Message]:
    """Make one request; ``before`` is awaited before a message of the app reaches the client."""
    seen: list[Message] = []
    ended = asyncio.Event()
    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if before is not None:
            await before(message)
        seen.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    await app(_scope("http", path, method=method, scheme="http"), receive, send)
    return seen


async def talk(
    app: Any,
    path: str,
    texts: Iterable[str] = (),
    before: Callable[[Message], Awaitable[None]] | None = None,
) -> list[Message]:
    """Connect a WebSocket, send the texts, and disconnect; return what the app has sent."""
    sent: list[Message] = []
    incoming: list[Message] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1001},
    ]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        if before is not None:
            await before(message)
        sent.append(message)

    await app(_scope("websocket", path, scheme="ws", subprotocols=[]), receive, send)
    return sent


def _scope(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        **more,
    }
