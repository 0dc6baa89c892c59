"""``advisor serve`` and ``advisor mcp``: the questions for other programs and for agents."""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

import typer

from advisor.cli.commands.app_command import Host, Port, check_free, is_loopback
from catalog.errors import InputError

Names = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", metavar="NAME", help="Another host name that requests may use. Can be repeated."),
]
Seconds = Annotated[
    float, typer.Option("--timeout", metavar="S", show_default=True, help="Longest time for a question.")
]
AtOnce = Annotated[
    int, typer.Option("--at-once", metavar="N", show_default=True, help="Questions answered in parallel.")
]


def serve(
    *,
    port: Port = 8600,
    host: Host = "localhost",
    allowed_host: Names = None,
    timeout: Seconds = 60.0,
    at_once: AtOnce = 2,
) -> None:
    """Serve the questions over HTTP, as JSON, text or Markdown.

    POST /v1/recommend, which, estimate, simulate and plan; /docs describes them. Bodies have at most 64 kB, questions queue,
    and only this machine is served unless --host says otherwise. Ctrl-C ends it.

    \b
    advisor serve
    advisor serve --port 8700 --at-once 4
    """  # noqa: D301  Click's mark for lines that stay as they are
    if not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn")):
        raise InputError("the service needs FastAPI and Uvicorn; install them with: pip install 'advisor[serve]'")
    if not 0 < timeout <= 3600 or not 0 < at_once <= 256:
        raise InputError("--timeout must be above 0 and at most 3600 s, --at-once from 1 to 256")
    check_free(host, port)
    import uvicorn

    from advisor.service.http import service

    if not is_loopback(host):
        sys.stderr.write(f"advisor: warning: whoever reaches {host} can ask; it knows no users and no passwords\n")
    names = (*(allowed_host or ()), *(() if is_loopback(host) else (host,)))
    application = service(hosts=names, timeout_s=timeout, at_once=at_once)
    sys.stderr.write(f"advisor: http://{host}:{port}/docs\n")
    uvicorn.run(application, host=host, port=port, log_level="warning", server_header=False)


def mcp() -> None:
    """Answer agents by the Model Context Protocol.

    Over standard input and output. Tools: which, recommend, estimate, simulate, plan. In the agent's settings, the command is
    "advisor" with the argument "mcp".
    """
    if importlib.util.find_spec("mcp") is None:
        raise InputError("the agent's server needs the package mcp; install it with: pip install 'advisor[mcp]'")
    from advisor.service.mcp_server import server

    server().run(transport="stdio")
