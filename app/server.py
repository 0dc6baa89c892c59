"""The app as ``advisor app`` serves it: who may ask, and what a browser may do with the pages.

A request whose Host header names neither this machine nor an address is refused, so that no page of another site can reach
the app under a name of its own that it lets point here (DNS rebinding). Pages may not be framed and load nothing from
elsewhere. Streamlit would ask a server on the Internet for this machine's address; it gets the answer that there is none.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from streamlit import net_util
from streamlit.starlette import App

from app.browser import Additions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

ALLOWED = "ADVISOR_APP_HOSTS"
"""Environment variable: further names under which the app is reached, separated by commas."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


def is_ours(host: str) -> bool:
    """Return whether a Host header names this machine: by an address, "localhost", its name, or one of ``ALLOWED``."""
    name = host.rsplit("]", maxsplit=1)[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    name = name.casefold().rstrip(".")
    machine = socket.gethostname().casefold()
    named = {host_name.strip().casefold() for host_name in os.environ.get(ALLOWED, "").split(",")} - {""}
    if name in {"localhost", machine, machine.partition(".")[0], *named}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses foreign hosts, and sends ``HEADERS`` with every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request or web socket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not is_ours(hosts[0]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                refusal = PlainTextResponse(f"this host is not served; name it in {ALLOWED}\n", status_code=421)
                await refusal(scope, receive, send)
            return

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in HEADERS]
                message["headers"] = [*kept, *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, guarded)


net_util.get_external_ip = lambda: None

app = App(Path(__file__).with_name("main.py"), middleware=[Middleware(Guard), Middleware(Additions)])
