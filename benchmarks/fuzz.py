"""Hostile input, seeded: every command must answer, or refuse in one line, whatever it is given.

    python -m benchmarks.fuzz --cases 10000 --seed 1
    python -m benchmarks.fuzz --suite trace --cases 100 --seed 7

Files and options that are right are damaged a little: values replaced, moved, nested, cut off (``benchmarks.hostile_cases``). Reported are
tracebacks, exit codes outside 0, 1 and 2, refusals of more than one line, more than ``LIMIT_S`` seconds of CPU, and answers that
are not sound (``benchmarks.soundness``): an interval that does not hold its estimate, a time below what bandwidth and peak allow,
a number that is none.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks.hostile_cases import POST, Fuzzer, Undamaged
from benchmarks.soundness import unsound

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 5.0
"""Seconds of CPU that no question of this size takes."""
PATIENCE_S = 30
"""Seconds of CPU after which a case is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case."""

    argv: tuple[str, ...]
    code: object
    out: str
    err: str
    seconds: float

    def faults(self) -> list[str]:
        """Name what is wrong with it."""
        faults = []
        if self.code not in (0, 1, 2):
            faults.append(f"exit {self.code}: {self.err.strip()[-300:]}")
        if "Traceback" in self.err + self.out:
            faults.append("a traceback is shown")
        if self.code == 2 and len(self.err.strip("\n").split("\n")) != 1:
            faults.append("a refusal of more than one line")
        if self.seconds > LIMIT_S:
            faults.append(f"{self.seconds:.1f} s of CPU")
        if self.code == 0 and ("json" in self.argv or POST in self.argv):
            faults += [f"{place}: {what}" for place, what in unsound(json.loads(self.out), self.argv)]
        return faults


class Hang(BaseException):
    """A case took more than ``PATIENCE_S``."""


def post(address: str, file: str) -> None:
    """Send a file to the service of this process, and end as the command line would: 2 where it is refused."""
    from fastapi.testclient import TestClient

    from advisor.service.http import service

    client = TestClient(service(timeout_s=PATIENCE_S), base_url="http://localhost", raise_server_exceptions=False)
    answer = client.post(address, content=Path(file).read_bytes(), headers={"content-type": "application/json"})
    if answer.status_code in (200, 400, 413, 422):
        print(answer.text, file=sys.stdout if answer.status_code == 200 else sys.stderr)
        sys.exit(0 if answer.status_code == 200 else 2)
    sys.exit(f"HTTP {answer.status_code}: {answer.text}")


def run(argv: list[str]) -> Outcome:
    """Run the command line, or a request to the service, in this process and without a network."""
    import typer.main

    from advisor.cli import app

    command = typer.main.get_command(app)
    out, err = io.StringIO(), io.StringIO()
    code: object = None

    def hang(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, hang)
    began = time.process_time()
    refused = mock.Mock(side_effect=OSError("no network"))
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(socket, "getaddrinfo", refused):
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_S)
        try:
            if argv[0] == POST:
                post(*argv[1:])
            else:
                command(list(argv))
        except SystemExit as ending:
            code = ending.code or 0
        except Hang:
            code = "hang"
        except BaseException:  # noqa: BLE001  the finding
            code, _ = "escaped", err.write(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return Outcome(
        argv=tuple(argv), code=code, out=out.getvalue(), err=err.getvalue(), seconds=time.process_time() - began
    )


def findings(suites: list[str], cases: int, seed: int, folder: Path) -> Iterator[tuple[str, Outcome, list[str]]]:
    """Run so many cases, suite by suite in turn, and yield those with faults."""
    fuzzer = Fuzzer(folder, seed)
    with mock.patch.dict(os.environ, {"ADVISOR_HOME": str(fuzzer.home), "HF_HUB_OFFLINE": "1"}):
        for suite in suites:  # imports are no case's
            run(Undamaged(folder, seed).case(suite))
        for suite in itertools.islice(itertools.cycle(suites), cases):
            outcome = run(fuzzer.case(suite))
            if faults := outcome.faults():
                yield suite, outcome, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = list(Fuzzer(Path(), 0).suites)
    parser.add_argument("--suite", choices=every, action="append", help="only these; can be repeated")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for suite, outcome, faults in findings(arguments.suite or every, arguments.cases, arguments.seed, Path(folder)):
            count[suite] += 1
            kept = Path(folder) / Path(next((word for word in outcome.argv if word.startswith(folder)), "none")).name
            content = kept.read_text(errors="replace")[:20000] if kept.is_file() else ""
            print(json.dumps({"suite": suite, "faults": faults, "argv": outcome.argv, "file": content}), flush=True)
    print(f"{arguments.cases} cases, {sum(count.values())} with faults {dict(count)}", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
