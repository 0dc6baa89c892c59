"""A report as two files that say the same: Markdown with figures beside it, and one HTML file that holds everything."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.render.plots import DPI, check_plots
from advisor.render.tables import markdown
from catalog.borders import write_whole
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from advisor.render.tables import Column

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th.right, td.right { text-align: right; font-variant-numeric: tabular-nums; }
tr.best td { font-weight: 600; background: #eef7f1; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { font-weight: 600; } dd { margin: 0; }
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto; font-size: 13px; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 13px; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure with what it shows."""

    name: str
    """Of its file, without the ending."""
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what is below it: a table, labelled lines, pictures."""

    title: str
    columns: Sequence[Column] = ()
    emphasised: int | None = None
    entries: Sequence[tuple[str, Sequence[str]]] = ()
    pictures: Sequence[Picture] = ()
    code: str = ""
    """To be copied; its lines stay as they are."""


def page_files(title: str, lead: Sequence[str], sections: Sequence[Section]) -> dict[str, bytes]:
    """``report.html``, which needs no other file, ``report.md`` and its figures (PNG): contents by name, the HTML first."""
    drawn = {picture.name: png(picture.figure) for section in sections for picture in section.pictures}
    return {
        "report.html": as_html(title, lead, sections, drawn).encode(),
        "report.md": as_markdown(title, lead, sections).encode(),
    } | {f"{name}.png": image for name, image in drawn.items()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into ``folder``, which is made if it is not there; those of the same names are replaced.

    Raises:
        InputError: a file cannot be written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise InputError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return [folder / name for name in files]


def check_writable(path: Path) -> None:
    """Raise ``InputError`` where no figure can be drawn or ``path`` cannot be made, before the work is done."""
    check_plots()
    existing = next((each for each in (path, *path.parents) if each.exists()), path)
    if not existing.is_dir() and existing != path:
        raise InputError(f"cannot write {path}: {existing} is no folder")


def png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes every time."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()


def as_markdown(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    parts = [f"# {_inline(title)}", "\n".join(f"{_inline(line)}  " for line in lead)]
    for section in sections:
        parts.append(f"## {_inline(section.title)}")
        if section.columns:
            parts.append(markdown(section.columns).rstrip())
        lines = [
            f"- **{_inline(label)}** {'; '.join(map(_inline, texts))}" for label, texts in section.entries if texts
        ]
        if lines:
            parts.append("\n".join(lines))
        if section.code:
            parts.append("\n".join(f"    {line}" for line in section.code.splitlines()))
        parts += [
            f"![{_inline(each.caption)}]({each.name}.png)\n\n*{_inline(each.caption)}*" for each in section.pictures
        ]
    return "\n\n".join(parts) + "\n"


def _inline(text: str) -> str:
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("<", "&lt;").replace("|", "\\|")


def as_html(title: str, lead: Sequence[str], sections: Sequence[Section], drawn: dict[str, bytes]) -> str:
    """One file with nothing outside it: no script, no address, images inside."""
    e = html.escape
    body = [f"<h1>{e(title)}</h1>", *(f"<div>{e(line)}</div>" for line in lead)]
    for section in sections:
        body.append(f"<h2>{e(section.title)}</h2>")
        if section.columns:
            body.append(_table(section.columns, section.emphasised))
        if section.entries:
            pairs = (
                f"<dt>{e(label)}</dt><dd>{'<br>'.join(map(e, texts))}</dd>" for label, texts in section.entries if texts
            )
            body.append(f"<dl>{''.join(pairs)}</dl>")
        if section.code:
            body.append(f"<pre>{e(section.code)}</pre>")
        for each in section.pictures:
            source = f"data:image/png;base64,{base64.b64encode(drawn[each.name]).decode()}"
            caption = e(each.caption)
            body.append(f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>')
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{e(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _table(columns: Sequence[Column], emphasised: int | None) -> str:
    def cell(tag: str, column: Column, text: str) -> str:
        side = ' class="right"' if column.right else ""
        return f"<{tag}{side}>{html.escape(text)}</{tag}>"

    named = [column for column in columns if column.name]
    heads = "".join(cell("th", each, f"{each.name} {each.unit}".strip()) for each in named)
    rows = []
    for i in range(len(named[0].cells)):
        kind = ' class="best"' if i == emphasised else ""
        rows.append(f"<tr{kind}>{''.join(cell('td', each, each.cells[i]) for each in named)}</tr>")
    return f'<div class="wide"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'
