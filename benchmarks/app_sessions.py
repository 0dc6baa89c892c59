"""Many sessions of the planning app at once: ``python -m benchmarks.app_sessions`` (20 sessions, five questions each).

Starts the app and opens sessions as browsers do, over Streamlit's web socket, without the cost of browsers. Every session asks questions
that no other asks, and checks that each answer is of its own. Prints the seconds an answer took, the server's memory, and exits with 1
where an answer was another session's, took longer than a minute, or the memory passed 2 GiB.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks.screenshots import served

MOST_S = 60.0
MOST_GIB = 2.0
GPUS = ("H100-SXM", "H200-SXM", "A100-SXM-80GB", "B200-SXM")
MODELS = ("meta-llama/Llama-2-13b-hf", "meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B")


def question(session: int, turn: int) -> tuple[dict[str, str], str]:
    """Return a question that no other session asks, and what only its answer says."""
    gpu, length = GPUS[(session + turn) % len(GPUS)], 500 + 16 * session + turn
    parameters = {
        "model": MODELS[turn % len(MODELS)],
        "gpu": gpu,
        "count": "4",
        "input_len": str(length),
    }
    return parameters, f"at {length} in / 256 out"


async def session(address: str, number: int, turns: int, taken: list[float]) -> list[str]:
    """Ask the questions of one session, after it has opened the page; return what went wrong."""
    wrong: list[str] = []
    page = ""
    async with websockets.connect(
        f"{address.replace('http', 'ws', 1)}/_stcore/stream", subprotocols=["streamlit"], max_size=None
    ) as socket:
        for _ in range(2):  # as a browser does that opens the page and then draws its charts
            opened = BackMsg()
            opened.rerun_script.page_script_hash = page
            await socket.send(opened.SerializeToString())
            _, page = await _answer(socket)
        for turn in range(turns):
            parameters, expected = question(number, turn)
            asked = BackMsg()
            asked.rerun_script.query_string = urlencode(parameters)
            asked.rerun_script.is_history_navigation = True  # the address decides, not the widgets
            asked.rerun_script.page_script_hash = page
            start = time.perf_counter()
            await socket.send(asked.SerializeToString())
            try:
                said, page = await asyncio.wait_for(_answer(socket), MOST_S)
            except TimeoutError:
                wrong.append(f"session {number}, question {turn}: no answer in {MOST_S:.0f} s")
                break
            taken.append(time.perf_counter() - start)
            if expected not in said:
                wrong.append(f"session {number}, question {turn}: {said[:200]!r} is no answer to {parameters}")
    return wrong


async def _answer(socket: Any) -> tuple[str, str]:
    """Return the headings of a run of the page, when it is over, and what the page is called."""
    headings: list[str] = []
    page = ""
    while True:
        message = ForwardMsg.FromString(await socket.recv())
        kind = message.WhichOneof("type")
        if kind == "new_session":
            headings, page = [], message.new_session.page_script_hash
        if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            if element.WhichOneof("type") == "markdown" and element.markdown.body.startswith("## "):
                headings.append(element.markdown.body.replace("\\", ""))
        if kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
            return " ".join(headings), page


def memory_gib(pid: int) -> float:
    """Return the memory that a process holds, GiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 2**20


async def _all(address: str, sessions: int, turns: int) -> tuple[list[float], list[str]]:
    taken: list[float] = []
    wrong = await asyncio.gather(*(session(address, number, turns, taken) for number in range(sessions)))
    return taken, [line for lines in wrong for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--questions", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        process, address = served(Path(home))
        try:
            asyncio.run(_all(address, 1, 1))
            alone = memory_gib(process.pid)
            taken, wrong = asyncio.run(_all(address, chosen.sessions, chosen.questions))
            held = memory_gib(process.pid)
        finally:
            process.terminate()
            process.wait()
    ordered = sorted(taken)
    print(
        f"{chosen.sessions} sessions at once, {len(taken)} answers: median {statistics.median(ordered):.1f} s, "
        f"95% under {ordered[int(0.95 * len(ordered))]:.1f} s, the slowest {ordered[-1]:.1f} s; "
        f"server {alone:.2f} GiB with one session, {held:.2f} GiB with all; {len(wrong)} mixed or timed out"
    )
    print(*wrong, sep="\n")
    sys.exit(1 if wrong or held > MOST_GIB else 0)


if __name__ == "__main__":
    main()
