"""A server that looks like an inference engine from outside: OpenAI's two completion APIs, tokens at a known pace.

It batches continuously: every step takes ``step_s``, so much more for each sequence in it, and the prefills of those who
join; each running sequence then gets one token. At most ``max_num_seqs`` run, the others wait in order. Standard library
only, no model: tokens are made-up words, and a prompt's tokens are its words (or its ids, where it is a list of ids).

    with serving(Pace(step_s=0.005)) as url:
        ...                                          # url is http://127.0.0.1:PORT
    python tests/standin_server.py --port 8000       # the same, for tools that are run by hand
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast it is, and how much it takes at once."""

    step_s: float = 0.004
    step_s_per_seq: float = 0.0002
    prefill_s_per_token: float = 2e-6
    max_num_seqs: int = 64
    failing: frozenset[int] = frozenset()
    """Requests, counted from 0, that are answered with an error."""
    info: dict[str, Any] = field(default_factory=dict)
    """What ``/get_server_info`` tells (SGLang); nothing there without it."""

    def step(self, running: int, new_tokens: int) -> float:
        """Seconds of a step of so many sequences, of which some bring so many prompt tokens."""
        return self.step_s + self.step_s_per_seq * running + self.prefill_s_per_token * new_tokens


@dataclass(kw_only=True)
class _Sequence:
    prompt: int
    output: int
    tokens: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)


class _Batcher:
    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.waiting: list[_Sequence] = []
        self.running: list[_Sequence] = []
        self.came = asyncio.Event()

    def add(self, sequence: _Sequence) -> None:
        self.waiting.append(sequence)
        self.came.set()

    async def run(self) -> None:
        words = itertools.cycle(f" w{number}" for number in range(1, 90))
        due = time.perf_counter()
        while True:
            if not (self.waiting or self.running):
                self.came.clear()
                await self.came.wait()
                due = time.perf_counter()
            free = self.pace.max_num_seqs - len(self.running)
            new, self.waiting = self.waiting[:free], self.waiting[free:]
            self.running += new
            # a schedule, so that what a sleep oversleeps is made up for
            due += self.pace.step(len(self.running), sum(each.prompt for each in new))
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            for each in self.running:
                each.output -= 1
                each.tokens.put_nowait(next(words))
                if each.output == 0:
                    each.tokens.put_nowait(None)
            self.running = [each for each in self.running if each.output > 0]


class _Server:
    def __init__(self, pace: Pace, model: str) -> None:
        self.pace, self.model = pace, model
        self.batcher = _Batcher(pace)
        self.count = itertools.count()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                method, path, _ = line.decode("latin-1").split(" ", 2)
                size = 0
                while (header := await reader.readline()).strip():
                    name, _, value = header.decode("latin-1").partition(":")
                    size = int(value) if name.casefold() == "content-length" else size
                body = await reader.readexactly(size)
                await self.answer(method, path.partition("?")[0], body, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()

    async def answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if method == "POST" and path in ("/v1/completions", "/v1/chat/completions"):
            try:
                await self.complete(path, json.loads(body), writer)
            except (KeyError, TypeError, ValueError) as error:
                await _send(writer, 400, {"error": {"message": f"{type(error).__name__}: {error}"}})
        elif path == "/v1/models":
            await _send(
                writer, 200, {"object": "list", "data": [{"id": self.model, "object": "model", "root": self.model}]}
            )
        elif path in ("/health", "/flush_cache"):
            await _send(writer, 200, {})
        elif path in ("/get_server_info", "/server_info", "/get_model_info") and self.pace.info:
            await _send(writer, 200, self.pace.info)
        else:
            await _send(writer, 404, {"error": {"message": f"no {path} here"}})

    async def complete(self, path: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        number = next(self.count)
        if number in self.pace.failing:
            await _send(writer, 500, {"error": {"message": "asked to fail"}})
            return
        chat = path.endswith("chat/completions")
        prompt = _prompt_tokens(asked["messages"] if chat else asked["prompt"])
        output = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 16)
        sequence = _Sequence(prompt=prompt, output=output)
        usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        head = {
            "id": f"cmpl-{number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1,
            "model": self.model,
        }
        self.batcher.add(sequence)
        if not asked.get("stream"):
            text = "".join([token async for token in _tokens(sequence)])
            part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            await _send(
                writer, 200, {**head, "choices": [{"index": 0, **part, "finish_reason": "length"}], "usage": usage}
            )
            return
        _start(writer, 200, "text/event-stream", "Transfer-Encoding: chunked")
        async for token in _tokens(sequence):
            part = {"delta": {"content": token}} if chat else {"text": token}
            end = "length" if sequence.output == 0 and sequence.tokens.qsize() <= 1 else None
            await _chunk(writer, {**head, "choices": [{"index": 0, **part, "finish_reason": end}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            await _chunk(writer, {**head, "choices": [], "usage": usage})
        await _chunk(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _prompt_tokens(prompt: Any) -> int:
    if isinstance(prompt, str):
        return max(1, len(prompt.split()))
    if isinstance(prompt, dict):
        return _prompt_tokens(prompt.get("content", prompt.get("text", "")))
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    return sum(_prompt_tokens(each) for each in prompt)


async def _tokens(sequence: _Sequence) -> Any:
    while (token := await sequence.tokens.get()) is not None:
        yield token


def _start(writer: asyncio.StreamWriter, status: int, kind: str, *headers: str) -> None:
    lines = (f"HTTP/1.1 {status} {STATUS[status]}", f"Content-Type: {kind}", *headers)
    writer.write("\r\n".join((*lines, "", "")).encode())


async def _send(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    _start(writer, status, "application/json", f"Content-Length: {len(data)}")
    writer.write(data)
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, message: Any) -> None:
    text = message if isinstance(message, str) else json.dumps(message)
    data = f"data: {text}\n\n".encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


async def _serve(pace: Pace, model: str, port: int, ready: Any) -> None:
    server = _Server(pace, model)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", port, backlog=1024)
    batching = asyncio.create_task(server.batcher.run())
    ready(listening.sockets[0].getsockname()[1], asyncio.current_task())
    try:
        await asyncio.Event().wait()
    finally:
        batching.cancel()
        listening.close()


@contextlib.contextmanager
def serving(pace: Pace | None = None, *, model: str = "stand-in") -> Iterator[str]:
    """Serve in a thread while the body runs; the address of the server."""
    started = threading.Event()
    found: dict[str, Any] = {}

    def ready(port: int, task: Any) -> None:
        found.update(port=port, task=task, loop=asyncio.get_running_loop())
        started.set()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_serve(pace or Pace(), model, 0, ready))

    thread = threading.Thread(target=run, name="stand-in server")
    thread.start()
    try:
        if not started.wait(10):
            raise RuntimeError("the stand-in server did not start")
        yield f"http://127.0.0.1:{found['port']}"
    finally:
        if started.is_set():
            found["loop"].call_soon_threadsafe(found["task"].cancel)
        thread.join(10)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for an inference engine's server.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="stand-in")
    parser.add_argument("--info", default="{}", help="JSON that /get_server_info answers")
    for name in ("step_s", "step_s_per_seq", "prefill_s_per_token", "max_num_seqs"):
        kind = type(getattr(Pace(), name))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(Pace(), name))
    asked = vars(parser.parse_known_args()[0])  # an engine's other options are fine
    port, model = asked.pop("port"), asked.pop("model")
    pace = Pace(**asked | {"info": json.loads(asked["info"])})
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(pace, model, port, lambda bound, _: print(f"http://127.0.0.1:{bound}", flush=True)))


if __name__ == "__main__":
    main()
