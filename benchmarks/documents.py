"""Write what commands print into the README and ``docs/``: ``python -m benchmarks.documents --write`` (or ``--check``).

A comment before a block says where its content comes from:

``output: COMMAND``
    The ``console`` block below holds the command and what it prints. ``output (exit 1): COMMAND`` where the command ends
    with that code, ``output (slow): COMMAND`` where it takes long: ``--quick`` leaves it as it stands.
``executed``
    The ``sh`` or ``python`` block below is run as it stands and must succeed.
``run: NAME``
    The block below is run by ``.ci/run`` in a fresh virtual environment, not here.
``recorded (WHERE): COMMAND``
    The block, table or picture below was made by this command on other machines or in more time than a check has. It is
    only checked that a command is named and that something follows.
``example (WHY)``
    The block below is shown and not run; its options are still checked to exist (``tests/test_documents.py``).
``generated: NAME`` ... ``end``
    Everything between the two comments is written by ``benchmarks.references``.

Commands of a page run in the page's order, in one empty folder that is also their home, 88 columns wide and without colour.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.references import GENERATORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 88
"""Columns of the terminal that commands see."""
LIMIT_S = 600
"""Seconds that one command may take."""
OUTPUT, EXECUTED, RUN, RECORDED, EXAMPLE, GENERATED = "output", "executed", "run", "recorded", "example", "generated"
SLOW = "slow"
KINDS = (OUTPUT, EXECUTED, RUN, RECORDED, EXAMPLE, GENERATED)
NEEDS_MARK = ("console", "sh", "bash", "python")
"""Languages of blocks that claim something happens: each needs one of the marks."""
_MARK = re.compile(rf"^( *)<!-- ({'|'.join(KINDS)})(?: \(([^()]*)\))?(?:: (.*?))? -->$")
_FENCE = re.compile(r"^( *)```(\w*)")


class DocumentError(Exception):
    """A page that cannot be written as its marks ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A marked part of a page; lines are numbered from 0, the end is exclusive."""

    kind: str
    detail: str
    """What stands in brackets: an exit code, a machine, a reason."""
    command: str
    """What stands after the colon."""
    language: str
    """Language of the fenced block; empty for tables, pictures and generated parts."""
    mark: int
    start: int
    """First line of the content, after the opening fence."""
    end: int
    """Line after the content: the closing fence, or the comment ``end``."""
    indent: str

    @property
    def exit_code(self) -> int:
        """Exit code with which the command must end."""
        named = re.fullmatch(r"exit (\d+)", self.detail)
        return int(named[1]) if named else 0


def pages(root: Path = ROOT) -> list[Path]:
    """List all pages whose blocks are marked: the README and everything in ``docs/``."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """Find the marked blocks of a page, and complain about unmarked ones that claim something."""
    lines = text.splitlines()
    page_blocks: list[Block] = []
    number = 0
    while number < len(lines):
        marked = _MARK.match(lines[number])
        fenced = _FENCE.match(lines[number])
        if marked:
            block = _block(lines, number, marked)
            page_blocks.append(block)
            number = block.end + 1
        elif fenced:
            if fenced[2] in NEEDS_MARK:
                raise DocumentError(f"line {number + 1}: the {fenced[2]} block has no mark; one of {', '.join(KINDS)}")
            number = _closing(lines, number, fenced[1]) + 1
        else:
            number += 1
    return page_blocks


def _block(lines: list[str], number: int, marked: re.Match[str]) -> Block:
    indent, kind, detail, command = (part or "" for part in marked.groups())
    where = f"line {number + 1}: <!-- {kind} -->"
    if kind in {OUTPUT, RECORDED, GENERATED, RUN} and not command:
        raise DocumentError(f"{where} names nothing after a colon")
    if kind == GENERATED:
        end = next((at for at in range(number + 1, len(lines)) if lines[at] == "<!-- end -->"), None)
        if end is None:
            raise DocumentError(f"{where} has no <!-- end -->")
        return Block(
            kind=kind,
            detail=detail,
            command=command,
            language="",
            mark=number,
            start=number + 1,
            end=end,
            indent=indent,
        )
    start = number + 1
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines):
        raise DocumentError(f"{where} is followed by nothing")
    fence = _FENCE.match(lines[start])
    if fence is None:
        if kind != RECORDED:
            raise DocumentError(f"{where} is not followed by a fenced block")
        return Block(
            kind=kind, detail=detail, command=command, language="", mark=number, start=start, end=start, indent=indent
        )
    wanted = {OUTPUT: {"console"}, EXECUTED: {"sh", "python"}}.get(kind)
    if wanted and fence[2] not in wanted:
        raise DocumentError(
            f"{where} is followed by a {fence[2] or 'nameless'} block, not {' or '.join(sorted(wanted))}"
        )
    end = _closing(lines, start, fence[1])
    return Block(
        kind=kind,
        detail=detail,
        command=command,
        language=fence[2],
        mark=number,
        start=start + 1,
        end=end,
        indent=fence[1],
    )


def _closing(lines: list[str], opening: int, indent: str) -> int:
    for at in range(opening + 1, len(lines)):
        if lines[at] == f"{indent}```":
            return at
    raise DocumentError(f"line {opening + 1}: the block is not closed")


def written(text: str, folder: Path, *, quick: bool = False) -> str:
    """Return the page with every output and generated part as its command makes it now; ``quick``: slow ones as they stand."""
    lines = text.splitlines()
    result: list[str] = []
    position = 0
    for block in blocks(text):
        if quick and block.detail == SLOW:
            continue
        if block.kind == OUTPUT:
            content = [*typed(block.command), *run(block.command, folder, block.exit_code).splitlines()]
        elif block.kind == EXECUTED:
            script = "\n".join(line.removeprefix(block.indent) for line in lines[block.start : block.end])
            run(script, folder, block.exit_code, python=block.language == "python")
            continue
        elif block.kind == GENERATED:
            if block.command not in GENERATORS:
                raise DocumentError(f"nothing generates {block.command}; known: {', '.join(GENERATORS)}")
            content = ["", *GENERATORS[block.command]().splitlines(), ""]
        else:
            continue
        result += lines[position : block.start] + [(block.indent + line).rstrip() for line in content]
        position = block.end
    return "\n".join(result + lines[position:]) + "\n"


def typed(command: str) -> list[str]:
    """Return a command as it is shown: after a prompt, and broken before options where it is too long for a line."""
    lines = ["$"]
    for part in re.split(r" (?=--|\| )", command):
        if len(lines[-1]) + len(part) + 3 > WIDTH and lines[-1].strip() != "$":
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    return lines


def run(command: str, folder: Path, exit_code: int = 0, *, python: bool = False) -> str:
    """Run a command line (or a Python script) in ``folder`` and return what it printed on stdout, with ``~`` for the folder.

    Raises:
        DocumentError: it ended with another exit code than ``exit_code``.
    """
    call = [sys.executable, "-c", command] if python else ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(
        call,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    if done.returncode != exit_code:
        raise DocumentError(
            f"exit code {done.returncode}, not {exit_code}, from: {command}\n{done.stdout[-500:]}{done.stderr[-2000:]}"
        )
    return done.stdout.replace(str(folder), "~")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a new user: no runs, models or settings of one's own, and this checkout's commands."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"ADVISOR_HOME", "XDG_DATA_HOME", "FORCE_COLOR"}
    }
    programs = folder / ".bin"
    if not programs.exists():
        programs.mkdir()
        for name, start in (("advisor", f'"{sys.executable}" -m advisor'), ("python", f'"{sys.executable}"')):
            (programs / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n', encoding="utf-8")
            (programs / name).chmod(0o755)
    return inherited | {
        "HOME": str(folder),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(WIDTH),
        "LINES": "50",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def differences(page: Path, *, quick: bool = False) -> tuple[str, str]:
    """Return the page as it is and as its commands make it now."""
    before = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a name of the same length everywhere: lines break alike
        try:
            return before, written(before, Path(folder), quick=quick)
        except DocumentError as error:
            raise DocumentError(f"{page.relative_to(ROOT)}: {error}") from None


def diff(page: Path, before: str, after: str) -> Iterator[str]:
    """Yield the lines of a unified diff from what a page says to what it should say."""
    name = page.relative_to(ROOT).as_posix()
    return difflib.unified_diff(
        before.splitlines(), after.splitlines(), name, f"{name} (as its commands print now)", lineterm=""
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; return 1 where a check finds a difference or a command fails."""
    parser = argparse.ArgumentParser(description="Write what commands print into README.md and docs/.")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--write", action="store_true", help="rewrite the pages")
    way.add_argument("--check", action="store_true", help="compare; print a diff and exit with 1 where they differ")
    parser.add_argument("--quick", action="store_true", help="leave out what is marked slow")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pages worked on at once")
    parser.add_argument("pages", nargs="*", type=Path, help="only these pages")
    chosen = parser.parse_args(arguments)
    wanted = [page.resolve() for page in chosen.pages] or pages()
    failed = False
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for page, future in [(page, pool.submit(differences, page, quick=chosen.quick)) for page in wanted]:
            try:
                before, after = future.result()
            except DocumentError as error:
                print(error, file=sys.stderr)
                failed = True
                continue
            if before == after:
                continue
            if chosen.write:
                page.write_text(after, encoding="utf-8")
                print(f"{page.relative_to(ROOT)}: written")
            else:
                print(*diff(page, before, after), sep="\n")
                failed = True
    if failed and chosen.check:
        print("pages differ from what their commands print; python -m benchmarks.documents --write", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
