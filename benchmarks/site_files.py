"""A hook of MkDocs that brings into the site what pages of ``docs/`` link to outside of that folder.

Figures stand in ``benchmarks/figures``, the rules for contributors beside the README, notes on the runs beside the runs. Links
to them are relative paths, so that they lead somewhere in a checkout; in the site these files stand under ``project/``.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOME = "project"
"""Folder of the site that holds them."""
_LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside ``docs/`` that its pages link to, and those that these link to."""
    from mkdocs.structure.files import File  # only there when the site is built

    pages = [Path(file.abs_src_path) for file in files if file.src_uri.endswith(".md")]
    while pages:
        page = pages.pop()
        for _, target in _LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if not _outside(path) or files.get_file_from_path(_address(path)) is not None:
                continue
            files.append(File.generated(config, _address(path), abs_src_path=str(path)))
            if path.suffix == ".md":
                pages.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to and from files outside ``docs/`` at their places in the site, and leave what commands print uncoloured.

    In a ``console`` block the highlighter takes every line that begins with a dollar sign for a command, prices too.
    """
    own = Path(page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        path = (own.parent / match[2]).resolve()
        leaves = _outside(path) or (_outside(own) and path.is_relative_to(DOCS))
        return match[1] + posixpath.relpath(_address(path), here) if leaves else match[0]

    return _LINK.sub(replaced, markdown).replace("```console\n", "```text\n")


def _outside(path: Path) -> bool:
    return path.is_file() and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS)


def _address(path: Path) -> str:
    """Return where a file of the project stands in the site, relative to its root."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{HOME}/{path.relative_to(ROOT).as_posix().lower()}"
