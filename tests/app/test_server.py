"""Who may ask the app, and what a browser may do with its pages."""

import asyncio
import urllib.error
import urllib.request

import pytest

pytest.importorskip("streamlit", reason="the app needs Streamlit: pip install 'advisor[app]'")

from advisor.cli.commands import app_command
from app import evidence_import
from app.server import ALLOWED, HEADERS, Guard, is_ours


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost:8501", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8501", True),
        ("[::1]:8501", True),
        ("192.168.1.20", True),
        ("planner.example:443", True),
        ("evil.example", False),
        ("localhost.evil.example:8501", False),
        ("127.0.0.1.nip.io", False),
        ("", False),
    ],
)
def test_a_host_that_another_site_points_here_is_not_ours(host, ours, monkeypatch):
    monkeypatch.setenv(ALLOWED, "other, planner.example")
    assert is_ours(host) == ours


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("hosts", [[b"evil.example"], [], [b"localhost", b"evil.example"]])
def test_foreign_hosts_reach_nothing(kind, hosts):
    async def never(*_):
        pytest.fail("it was served")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": "GET", "path": "/", "headers": [(b"host", host) for host in hosts]}
    asyncio.run(Guard(never)(scope, None, send))
    assert sent[0].get("status", 421) == 421
    assert sent[0]["type"] in ("http.response.start", "websocket.close")


@pytest.mark.process
def test_pages_are_not_framed_and_only_for_our_hosts(server):
    with urllib.request.urlopen(server) as answer:
        assert {name.decode(): value.decode() for name, value in HEADERS.items()}.items() <= {
            name.lower(): value for name, value in answer.headers.items()
        }.items()
    foreign = urllib.request.Request(server, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(foreign)
    assert refusal.value.code == 421
    refusal.value.close()


def test_nobody_is_asked_for_the_machine_s_address():
    from streamlit import net_util

    assert net_util.get_external_ip() is None
    command = app_command.start("0.0.0.0", 8501)
    assert command[command.index("--browser.serverAddress") + 1] == "localhost"


@pytest.mark.parametrize(
    ("host", "warned"), [("localhost", False), ("127.0.0.1", False), ("0.0.0.0", True), ("10.0.0.7", True)]
)
def test_who_lets_others_in_is_warned_and_keeps_the_runs_to_himself(host, warned, monkeypatch, capsys):
    started = {}
    monkeypatch.setattr(app_command, "check_free", lambda *_: None)
    monkeypatch.setattr(app_command.os, "execve", lambda _, __, environment: started.update(environment))
    app_command.app(port=8501, host=host)
    assert ("warning: whoever reaches" in capsys.readouterr().err) == warned
    for name in (app_command.SHARED, app_command.KEEPING):
        monkeypatch.delenv(name, raising=False)
        if name in started:
            monkeypatch.setenv(name, started[name])
    assert evidence_import.may_keep() != warned
    monkeypatch.setenv(app_command.KEEPING, "1")
    assert evidence_import.may_keep()
