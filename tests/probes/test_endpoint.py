"""What a server tells of itself, and GuideLLM as a process: a script with its options stands in for it."""

import json
import os
import signal
import stat
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from catalog.errors import InputError
from probes.endpoint import plain_url, read_endpoint
from probes.endpoint_load import EndpointTraffic, LoadFailed, LoadTarget, command, make_traffic

pytestmark = pytest.mark.process

CLOSED = EndpointTraffic(name="closed-4", in_flight=4)


@contextmanager
def answering(answers, key=None):
    """A server of fixed answers, which wants a key if there is one; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # the name that http.server looks for
            allowed = key is None or self.headers.get("Authorization") == f"Bearer {key}"
            body = answers.get(self.path) if allowed else None
            self.send_response(401 if not allowed else 404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def models(**own):
    return {"object": "list", "data": [{"id": "m", "object": "model", **own}]}


def script(folder, monkeypatch, body):
    """A ``guidellm`` on the path that runs this Python."""
    path = folder / "bin" / "guidellm"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport json, os, subprocess, sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path.parent))


def target(**own):
    return LoadTarget(**{"url": "http://h:1", "model": "m", "tokenizer": "t", "input_len": 8, "output_len": 4} | own)


def test_what_vllm_tells(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    listed = models(owned_by="vllm", root="meta-llama/x", max_model_len=4096)
    with answering({"/v1/models": listed, "/version": {"version": "0.24.0"}}) as url:
        found = read_endpoint(f"{url}/v1/")
    (served,) = found.models
    assert (served.name, served.aliases, served.engine) == ("m", ("meta-llama/x",), "vllm")
    assert (served.max_model_len, found.version, found.url) == (4096, "0.24.0", url)


def test_what_sglang_tells(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    info = {"tp_size": 2, "version": "0.5.6"}
    with answering({"/v1/models": models(owned_by="sglang"), "/get_server_info": info}) as url:
        found = read_endpoint(url)
    assert (found.version, found.settings, found.models[0].engine) == ("0.5.6", info, "sglang")


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch):
    with answering({"/v1/models": models()}, key="sk-right") as url:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(InputError, match=r"wants a key; give it in \$OPENAI_API_KEY \(HTTP 401\)$"):
            read_endpoint(url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        with pytest.raises(InputError, match=r"refuses the key in \$OPENAI_API_KEY") as caught:
            read_endpoint(url)
        assert "sk-wrong" not in str(caught.value)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        assert read_endpoint(url).models[0].name == "m"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "answers HTTP 404; is it an OpenAI-compatible server"),
        ({"/v1/models": b"<html>"}, "does not answer in JSON"),
        ({"/v1/models": {"data": []}}, "lists no model"),
        ({"/v1/models": [1]}, "lists no model"),
    ],
)
def test_a_server_of_another_kind(answers, said):
    with answering(answers) as url, pytest.raises(InputError, match=said):
        read_endpoint(url)


def test_nobody_answers():
    with pytest.raises(InputError, match=r"nobody answers at http://127.0.0.1:9 \(Connection refused\)"):
        read_endpoint("http://127.0.0.1:9/v1")


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://", "http://h:port", ""])
def test_what_is_no_address(url):
    with pytest.raises(InputError, match="it must be a server's address such as"):
        plain_url(url)


def test_an_address_with_a_password_is_refused_without_showing_it():
    for url in (
        "https://me:hunter2@host/v1",
        "ftp://me:hunter2@host",
        "http://me:hunter2@host:x",
        "http://me:12?hunter2@host",
        "http://me:80#hunter2@host:80",
        "http://me:hunter2",
        "http://me:hunter2/v1",
        "me:hunter2@host",
        "http://h?key=hunter2:x@",
    ):
        with pytest.raises(InputError) as caught:
            plain_url(url)
        assert "hunter2" not in str(caught.value)
    assert plain_url("https://host/prefix/v1/?key=1#x") == "https://host/prefix"


def test_arguments_are_a_list_and_hold_no_second_setting():
    argv = command("g", target(), CLOSED, seconds=5, report="r.json", seed=1)
    assert argv[argv.index("--profile") + 1] == "kind=concurrent,streams=4"
    assert argv[argv.index("--data") + 1] == "kind=synthetic_text,prompt_tokens=8,output_tokens=4"
    with pytest.raises(InputError, match="no name with a comma"):
        target(model="m,api_key=x")


def test_a_report_is_there_only_if_it_is_whole(tmp_path, monkeypatch):
    script(tmp_path, monkeypatch, "open('closed-4.part.json', 'w').write('{\"benchm')")
    with pytest.raises(LoadFailed, match="GuideLLM failed: it wrote nothing"):
        make_traffic(target(), CLOSED, tmp_path, seconds=1, limit_s=20)
    assert not (tmp_path / "closed-4.json").exists()


def test_the_key_goes_by_the_environment_and_is_not_told(tmp_path, monkeypatch):
    body = "key = os.environ['GUIDELLM__SPEC__BACKEND__API_KEY']; assert key not in ' '.join(sys.argv); sys.exit('bad ' + key)"
    script(tmp_path, monkeypatch, body)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(LoadFailed, match=r"GuideLLM failed: bad \*\*\*"):
        make_traffic(target(), CLOSED, tmp_path, seconds=1, limit_s=20)


def test_one_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch):
    child = "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    script(tmp_path, monkeypatch, f"{child}; open('pid', 'w').write(str(p.pid)); time.sleep(60)")
    with pytest.raises(LoadFailed, match="ended after 2 s"):
        make_traffic(target(), CLOSED, tmp_path, seconds=1, limit_s=2)
    gone(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_it(tmp_path, monkeypatch):
    script(tmp_path, monkeypatch, "open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    timer = threading.Thread(target=interrupt, args=(tmp_path / "pid",))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        make_traffic(target(), CLOSED, tmp_path, seconds=1, limit_s=60)
    timer.join()
    gone(int((tmp_path / "pid").read_text()))


def interrupt(path):
    """What Ctrl-C does, once the program has begun."""
    ends = time.monotonic() + 20
    while not (path.exists() and path.read_text()) and time.monotonic() < ends:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)


def gone(pid):
    """Wait until a process is over: one that was killed is a zombie until whoever inherits it has looked."""
    status = Path(f"/proc/{pid}/stat")
    for _ in range(200):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} still runs")
