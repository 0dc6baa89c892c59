"""What the app adds to Streamlit's page for the browser: looks, and one entry of the history for each action."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]

END = b"</head>"
CONDITIONS = {b"accept-encoding", b"if-none-match", b"if-modified-since", b"range"}
"""Headers of a request that are kept back, so that the page comes whole and as text."""


@cache
def additions() -> bytes:
    """Return what is put at the end of the page's head."""
    folder = Path(__file__).parent
    looks, history = ((folder / name).read_bytes() for name in ("browser.css", "browser.js"))
    return b"<style>" + looks + b"</style><script>" + history + b"</script>"


class Additions:
    """Puts ``additions`` into the page that every address of the app begins with."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Serve one request or web socket."""
        accepted = b",".join(value for name, value in scope.get("headers", ()) if name == b"accept")
        if scope["type"] != "http" or scope.get("method") != "GET" or b"text/html" not in accepted:
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def added(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            content = bytes(body).replace(END, additions() + END, 1)
            kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            start["headers"] = [*kept, (b"content-length", str(len(content)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": content})

        asked = [(name, value) for name, value in scope["headers"] if name not in CONDITIONS]
        await self.app({**scope, "headers": asked}, receive, added)
