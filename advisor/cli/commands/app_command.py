"""``advisor app``: the planning app, served to a browser."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Port = Annotated[int, typer.Option("--port", metavar="PORT", show_default=True, help="Port to listen on.")]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="HOST",
        show_default=True,
        help="Address to listen on; 0.0.0.0 lets in everybody who can reach this machine.",
    ),
]

ROOT = Path(__file__).resolve().parents[3]
"""Where the packages lie, this one among them."""
SERVER = ROOT / "app" / "server.py"
SHARED, KEEPING = "ADVISOR_APP_SHARED", "ADVISOR_APP_KEEP_RUNS"
"""Environment variables: that others than the owner use the app, and that they may add to the owner's runs all the same."""
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  named, not listened on
SETTINGS = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "viewer",
    "global.disableWidgetStateDuplicationWarning": "true",
    "server.fileWatcherType": "none",
    "logger.level": "warning",
    "server.headless": "true",
    "server.maxUploadSize": "20",
    "theme.light.primaryColor": "#1F66AD",
    "theme.dark.primaryColor": "#2F78BD",
}
"""Of Streamlit: nothing is sent anywhere, no traceback is shown, no browser is opened, uploads have at most 20 MB, only what
goes wrong is logged; that an example fills in widgets which have defaults is meant; what is chosen is blue, for Streamlit's red
looks like an error."""


def app(*, port: Port = 8501, host: Host = "localhost") -> None:
    """Serve the planning app to a browser.

    What the commands answer, with charts to explore it. Ctrl-C ends it.

    \b
    advisor app
    advisor app --port 8600
    """  # noqa: D301  Click's mark for lines that stay as they are
    if importlib.util.find_spec("streamlit") is None:
        raise InputError("the app needs Streamlit; install it with: pip install 'advisor[app]'")
    check_free(host, port)
    if not is_loopback(host):
        message = (
            f"whoever reaches {host} can use the app; runs are kept only by advisor import unless {KEEPING}=1 is set"
        )
        sys.stderr.write(f"advisor: warning: {message}\n")
    command = start(host, port)
    sys.stdout.flush()
    shared = {} if is_loopback(host) else {SHARED: "1"}
    os.execve(command[0], command, environment(os.environ | shared))  # noqa: S606  no shell, and Ctrl-C is Streamlit's alone


def start(host: str, port: int) -> list[str]:
    """Return the command that serves the app; ``-P`` keeps the folder it is started in off Python's path."""
    options = {**SETTINGS, "server.address": host, "server.port": str(port)}
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    if host in WILDCARDS:
        flags += ["--browser.serverAddress", "localhost"]  # else Streamlit looks for more addresses
    return [sys.executable, "-P", "-m", "streamlit", "run", str(SERVER), *flags]


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's own, which nobody else reaches."""
    return host in {"localhost", "::1"} or host.startswith("127.")


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment to start it in: a source checkout is not on Python's path by itself."""
    if ROOT.name in {"site-packages", "dist-packages"}:
        return dict(own)
    return {**own, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [own.get("PYTHONPATH")])])}


def check_free(host: str, port: int) -> None:
    """Raise ``InputError`` unless a server can listen there."""
    if not 0 < port < 2**16:
        raise InputError(f"--port is {port}; it must be from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(f"--host is {host!r:.60}; it must be an address of this machine, such as localhost") from None
    with socket.socket(family, kind) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(address)
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port} of {host}: {(error.strerror or str(error)).lower()}; "
                f"name another one, for example --port {port + 1 if port < 2**16 - 1 else 8501}"
            ) from None
