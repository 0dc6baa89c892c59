"""A deployment as shell text: what to type on each node."""

from __future__ import annotations

import shlex
from itertools import groupby
from typing import TYPE_CHECKING

from catalog.yaml_files import here_document

if TYPE_CHECKING:
    from collections.abc import Iterable

    from catalog.engines.launch.process import Process


def script(processes: Iterable[Process], comments: Iterable[str]) -> str:
    """Return the commands of all processes, by node; those of one node run side by side.

    Nothing of it is ever run from here; every word of user input is quoted by ``shlex``.
    """
    lines = [f"# {comment}" for comment in comments]
    by_node = [(node, list(group)) for node, group in groupby(processes, key=lambda p: p.node)]
    for node, here in by_node:
        if len(by_node) > 1:
            lines.append(f"\n# on node {node}")
        lines += _files(here)
        several = len(here) > 1
        for process in here:
            variables = [f"{name}={shlex.quote(value)}" for name, value in process.environment.items()]
            lines.append(" ".join([*variables, shlex.join(process.argv)]) + (" &" if several else ""))
        lines += ["wait"] if several else []
    return "\n".join(lines) + "\n"


def _files(processes: Iterable[Process]) -> list[str]:
    files = {name: content for process in processes for name, content in process.files.items()}
    return [here_document(name, content) for name, content in files.items()]
