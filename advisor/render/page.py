"""Documents to hand round: one HTML file that needs no other, Markdown beside its figures, written by Jinja2's templates."""

from __future__ import annotations

import base64
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from advisor.render.console import command_lines
from advisor.render.figures.measured import chart_spec
from advisor.render.tables import markdown
from catalog.borders import write_whole
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from advisor.render.document import Document, Spec
    from advisor.render.measured.charts import Chart

NEEDED = {"vl_convert": "vl-convert-python", "jinja2": "Jinja2"}
"""Packages that reports take, by what they are imported as."""
COMMAND_WIDTH = 100
"""Letters of a line of a command."""
SCALE = 2.0
"""Pixels of a PNG for each pixel of a figure."""


def figures_can_be_drawn() -> bool:
    """Return whether what draws figures and writes reports is installed."""
    return all(find_spec(module) for module in NEEDED)


def check_figures() -> None:
    """Raise ``InputError`` where no figure can be drawn."""
    if not figures_can_be_drawn():
        missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
        raise InputError(f"reports and figures need {' and '.join(missing)}: pip install 'advisor[plots]'")


def png(spec: Spec) -> bytes:
    """Draw a figure as a PNG, on white; the same bytes every time.

    Raises:
        InputError: what draws it is not installed.

    """
    check_figures()
    import vl_convert  # an extra

    from advisor.render.figures.vega import PRINTED

    image: bytes = vl_convert.vegalite_to_png(spec | {"config": PRINTED, "background": "white"}, scale=SCALE)
    return image


def page_files(document: Document) -> dict[str, bytes]:
    """Return ``report.html``, ``report.md`` and the figures (PNG): contents by name, the HTML first.

    Raises:
        InputError: what draws and writes them is not installed.

    """
    check_figures()
    images = {figure.name: png(figure.make()) for section in document.sections for figure in section.figures}
    sources = {name: base64.b64encode(image).decode("ascii") for name, image in images.items()}
    pages = {
        f"report.{ending}": _rendered(f"report.{ending}.j2", document=document, images=sources).encode()
        for ending in ("html", "md")
    }
    return pages | {f"{name}.png": image for name, image in images.items()}


def _rendered(template: str, **values: Any) -> str:
    import jinja2  # an extra

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("advisor.render"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inline": _inline,
        "pipes": lambda table: markdown(table.columns).rstrip(),
        "command": lambda command: "\n".join(command_lines(command, COMMAND_WIDTH)),
    }
    return environment.get_template(template).render(**values)


def _inline(text: str) -> str:
    """Write text as Markdown that shows it as it is: names and messages may hold anything."""
    for mark in "\\`*_[]<>|!":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())


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
    check_figures()
    existing = next((parent for parent in (path, *path.parents) if parent.exists()), path)
    if not existing.is_dir() and existing != path:
        raise InputError(f"cannot write {path}: {existing} is no folder")


def write_png(spec: Spec, path: Path) -> Path:
    """Draw a figure into a PNG file.

    Raises:
        InputError: it cannot be drawn or written.

    """
    image = png(spec)
    try:
        write_whole(path, image)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return path


def draw(charts: Iterable[Chart], folder: Path) -> list[Path]:
    """Draw charts of measured runs as PNG files into ``folder``, which exists.

    Raises:
        InputError: what draws them is not installed, or a file cannot be written.

    """
    return [write_png(chart_spec(chart), folder / f"{chart.name}.png") for chart in charts]
