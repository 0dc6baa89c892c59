"""Ask the questions, keep their answers in one file, and compare.

``python -m tests.recording.answers`` writes what has no entry yet; ``--texts`` writes the texts anew; ``--again PART`` the
entries whose question contains PART. A commit that writes entries anew says why.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import advisor
from tests.recording.questions import CURVES, FILES, IMPORTS, NUMBERS, TEXTS

RECORDED = Path(__file__).with_name("answers.json.gz")
MOST = 4
"""Rows of a long list that are kept whole; of the others the sums of their numbers are."""
MASKS = (
    (re.compile(r"/tmp/\S+?/"), "FOLDER/"),
    (re.compile(r"no-name-[0-9a-f-]{36}"), "STUDY"),
    (re.compile(r"20\d\d-\d\d(-\d\d)?(T[\d:.+Z]+)?"), "DATE"),
    (re.compile(r"advisor (version )?\d+\.\d+\.\d+\S*"), "advisor VERSION"),
)
SKIPPED = {"seconds", "elapsed_s", "version", "advisor_version", "searched_s"}
"""Keys of what differs from one run to the next."""


def command(line: str) -> dict[str, Any]:
    """Answer a command line in this process: exit code, standard output, standard error."""
    from advisor.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["advisor", *line.split()]),
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def masked(text: str) -> str:
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def thin(value: Any) -> Any:
    """Shorten an answer so that a change of any number in it still shows."""
    if isinstance(value, dict):
        return {key: thin(item) for key, item in value.items() if key not in SKIPPED}
    if isinstance(value, list):
        if len(value) <= 2 * MOST:
            return [thin(item) for item in value]
        return {"first": [thin(item) for item in value[:MOST]], "count": len(value), "sums": _sums(value[MOST:])}
    if isinstance(value, float):
        return float(f"{value:.13g}")
    return masked(value) if isinstance(value, str) else value


def _sums(value: Any, path: str = "") -> dict[str, float]:
    sums: dict[str, float] = {}
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in SKIPPED:
                for name, number in _sums(item, f"{path}.{key}").items():
                    sums[name] = sums.get(name, 0.0) + number
    elif isinstance(value, list):
        for item in value:
            for name, number in _sums(item, path).items():
                sums[name] = sums.get(name, 0.0) + number
    elif isinstance(value, (int, float)) and math.isfinite(value):
        sums[path] = float(value)
    return sums


def numbers(line: str) -> Any:
    """Answer a question as data; what is not JSON stays text."""
    answer = command(line)
    with contextlib.suppress(ValueError):
        return {"code": answer["code"], "answer": thin(json.loads(answer["out"]))}
    return {"code": answer["code"], "answer": masked(answer["out"])}


def texts(line: str) -> Any:
    answer = command(line)
    return {"code": answer["code"], **{name: masked(answer[name]) for name in ("out", "err")}}


def imported(file: str, options: str) -> Any:
    """Import a benchmark into an empty home; what is kept, and what an estimate says after it."""
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, {"ADVISOR_HOME": home}):
        taken = command(f"import {FILES / file} {options}")
        runs = sorted((dataclasses.asdict(run) for run in advisor.user_runs()), key=lambda run: str(run["run_id"]))
        after = numbers(
            "estimate --model llama-3.1-8b --gpus 1xH100 --batch 16 --input-len 512 --output-len 128 --format json"
        )
    kept = (
        "batch",
        "input_len",
        "output_len",
        "ttft_ms",
        "tpot_ms",
        "e2e_ms",
        "output_tok_s",
        "concurrency",
        "rate",
        "regime",
    )
    return {"code": taken["code"], "runs": [{key: run.get(key) for key in kept} for run in runs], "after": after}


def curve(model: str, gpus: str, options: dict[str, Any]) -> Any:
    return thin(json.loads(json.dumps(advisor.curve(model, gpus, **options).to_dict(), default=str)))


def questions() -> dict[str, Any]:
    """Every question by its name, with the function that answers it."""
    asked: dict[str, Any] = {f"number: {line}": (numbers, (line,)) for line in NUMBERS}
    asked |= {f"text: {line}": (texts, (line,)) for line in TEXTS}
    asked |= {f"import: {file}": (imported, (file, options)) for file, options in IMPORTS}
    return asked | {
        f"curve: {model} {gpus} {options}": (curve, (model, gpus, options)) for model, gpus, options in CURVES
    }


def answer(name: str) -> Any:
    function, arguments = questions()[name]
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, {"ADVISOR_HOME": home}):
        return json.loads(json.dumps(function(*arguments)))


def recorded() -> dict[str, Any]:
    held: dict[str, Any] = json.loads(gzip.decompress(RECORDED.read_bytes())) if RECORDED.exists() else {}
    return held


def differences(held: Any, now: Any, path: str = "") -> list[str]:
    """The places where two answers differ: numbers by more than a relative 1e-9, all else at all."""
    if isinstance(held, bool) or isinstance(now, bool) or type(held) is not type(now):
        numeric = isinstance(held, (int, float)) and isinstance(now, (int, float))
        if not numeric or isinstance(held, bool) or isinstance(now, bool):
            return (
                []
                if held == now and type(held) is type(now)
                else [f"{path}: {held!r:.200} was recorded, {now!r:.200} is said"]
            )
    if isinstance(held, dict):
        found = [f"{path}.{key}: is missing" for key in held.keys() - now.keys()]
        found += [f"{path}.{key}: is new" for key in now.keys() - held.keys()]
        return found + [
            each for key in held.keys() & now.keys() for each in differences(held[key], now[key], f"{path}.{key}")
        ]
    if isinstance(held, list):
        if len(held) != len(now):
            return [f"{path}: {len(held)} entries were recorded, there are {len(now)}"]
        return [
            each for i, (a, b) in enumerate(zip(held, now, strict=True)) for each in differences(a, b, f"{path}[{i}]")
        ]
    if isinstance(held, (int, float)):
        same = math.isclose(held, now, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(held) and math.isnan(now))
        return [] if same else [f"{path}: {held!r} was recorded, {now!r} is said"]
    return [] if held == now else [f"{path}: {held!r:.300} was recorded, {now!r:.300} is said"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the answers that the code gives now.")
    parser.add_argument("--texts", action="store_true", help="write the texts anew")
    parser.add_argument("--again", metavar="PART", default=None, help="write anew what contains this")
    options = parser.parse_args()
    held, names = recorded(), list(questions())
    kept = {name: held[name] for name in names if name in held}
    for name in names:
        anew = (options.texts and name.startswith("text: ")) or (options.again is not None and options.again in name)
        if name not in kept or anew:
            kept[name] = answer(name)
            print(name, file=sys.stderr)
    packed = json.dumps({name: kept[name] for name in names}, separators=(",", ":"))
    RECORDED.write_bytes(gzip.compress(packed.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
