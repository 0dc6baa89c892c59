"""Traffic for a server, made by GuideLLM: one process of it a load, and its report as a file.

Written against GuideLLM 0.8 (``guidellm run``).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import InputError
from probes import supervised as leash
from probes.endpoint import KEY

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "guidellm"

ITS_KEY = "GUIDELLM__SPEC__BACKEND__API_KEY"
"""Where GuideLLM looks for the server's key; arguments could be read by every user of the machine."""


class LoadFailed(Exception):  # noqa: N818  no fault of ours
    """A load that gave no report, and why in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTraffic:
    """How requests come: so many kept in flight, or as a Poisson process of so many a second."""

    name: str
    in_flight: int | None = None
    rate: float | None = None

    @property
    def profile(self) -> str:
        """Write the traffic as GuideLLM's option."""
        if self.in_flight is not None:
            return f"kind=concurrent,streams={self.in_flight}"
        return f"kind=poisson,rate={self.rate!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTarget:
    """What the traffic is for, and what its requests are."""

    url: str
    model: str
    """What requests call it."""
    tokenizer: str
    """A Hugging Face id or a folder: prompts are made with it."""
    input_len: int
    output_len: int

    def __post_init__(self) -> None:
        """Raise ``InputError`` for what GuideLLM would read as several settings."""
        for name, value in (("endpoint", self.url), ("the served model", self.model), ("tokenizer", self.tokenizer)):
            if not value or any(letter in value for letter in ",\n\0"):
                raise InputError(f"{name} is {value!r:.80}; GuideLLM can be given no name with a comma in it")


def find_program() -> str:
    """Find GuideLLM; raise ``InputError`` where it is not installed.

    Raises:
        InputError: it is not on the path.

    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise InputError("measuring a server needs GuideLLM, which makes the requests: pip install guidellm")
    return program


def command(
    program: str, target: LoadTarget, traffic: EndpointTraffic, *, seconds: float, report: str, seed: int
) -> list[str]:
    """Return GuideLLM's arguments.

    Requests ask the server to run on to ``output_len`` tokens whatever it says (``ignore_eos``), and prompts are sent as they
    are: a chat template would add to them, and a base model has none.
    """
    backend = f"kind=openai_http,target={target.url},model={target.model},request_format=/v1/completions,verify=true"
    return [
        program,
        "run",
        "--backend",
        backend,
        "--profile",
        traffic.profile,
        "--constraint",
        f"kind=max_duration,seconds={seconds:.1f}",
        "--tokenizer",
        f"kind=hf_auto,model={target.tokenizer}",
        "--data",
        f"kind=synthetic_text,prompt_tokens={target.input_len},output_tokens={target.output_len}",
        "--seed",
        f"kind=static,value={seed}",
        "--output",
        f"kind=json,path={report}",
        "--disable-console",
    ]


def make_traffic(target: LoadTarget, traffic: EndpointTraffic, folder: Path, *, seconds: float, limit_s: float) -> Path:
    """Send requests for so many seconds, and the report's path: FOLDER/NAME.json, which is there only if it is whole.

    Whatever ends this, a kill too, ends GuideLLM.

    Raises:
        InputError: GuideLLM is not installed, or the folder cannot be written.
        LoadFailed: it made no report, or not within ``limit_s`` seconds.

    """
    program = find_program()
    log, part, whole = (folder / f"{traffic.name}.{kind}" for kind in ("log", "part.json", "json"))
    # prompts that the server has seen before would hit its prefix cache
    argv = command(program, target, traffic, seconds=seconds, report=part.name, seed=secrets.randbelow(2**31))
    environment = {name: value for name, value in os.environ.items() if name != ITS_KEY}
    if key := os.environ.get(KEY):
        environment[ITS_KEY] = key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", leash.__file__, *argv],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise InputError(f"cannot run {program} in {folder}: {error.strerror}") from error
    try:
        code = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"GuideLLM was ended after {limit_s:.0f} s (log: {log})") from None
    finally:
        _end(process)
    if code or not _is_whole(part):
        raise LoadFailed(f"GuideLLM failed: {_last_line(log)} (log: {log})")
    part.replace(whole)
    return whole


def _is_whole(report: Path) -> bool:
    try:
        return isinstance(json.loads(report.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "it wrote nothing")
    key = os.environ.get(KEY)
    return (last.replace(key, "***") if key else last)[:300]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill GuideLLM and the processes it started, which share its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes its pipe and waits for it
        pass
