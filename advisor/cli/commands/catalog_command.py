"""``advisor catalog``: the models, GPUs, prices and engines that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advisor.cli.groups import flattened
from advisor.cli.options.catalog import CatalogOutput, PricesOutput
from advisor.cli.output import answer, write
from advisor.cli.program import Command, Program
from catalog.errors import InputError
from catalog.names import closest, squash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.render.tables import Column
    from catalog.errors import Resolved
    from catalog.tables import CatalogTable

app = typer.Typer(cls=Program, rich_markup_mode=None, invoke_without_command=True)

Search = Annotated[
    str | None,
    typer.Argument(
        metavar="[SEARCH]",
        help="A name shows that entry in full, a part of names those that match.",
        show_default=False,
    ),
]


@app.callback()
def overview(ctx: typer.Context) -> None:
    """List the models, GPUs, prices and engines that are known.

    Each entry has its source. Your own go to TOML files in $ADVISOR_HOME; any config.json of Hugging Face works without an entry.

    \b
    advisor catalog models                  all of them
    advisor catalog models llama            those whose name holds "llama"
    advisor catalog models llama-13b        one in full
    advisor catalog gpus A100 --format json
    """  # noqa: D301  Click's mark for lines that stay as they are
    if ctx.invoked_subcommand is not None:
        return
    from catalog.engines import all_engines  # engines' facts are read only for this
    from catalog.prices import all_prices
    from catalog.tables import table

    counts = {
        "models": len(table("models").entries),
        "gpus": len(table("gpus").entries),
        "prices": len(all_prices()),
        "engines": len(all_engines()),
    }
    write("".join(f"advisor catalog {kind:8s} {count:5d}\n" for kind, count in counts.items()))


@app.command(cls=Command)
@flattened
def models(*, search: Search = None, output: CatalogOutput) -> None:
    """List models, or show one in full: parameters, KV bytes per token, shape, source.

    One may be named as for --model, also by the path to a config.json.
    """
    from advisor.render.answers import catalog as report
    from catalog.models.find import all_models, find_model

    _one_or_many("models", search, all_models(), find_model, report.model_columns, report.model_facts, output)


@app.command(cls=Command)
@flattened
def gpus(*, search: Search = None, output: CatalogOutput) -> None:
    """List GPUs, or show one in full: memory, bandwidth, TFLOP/s, links, source."""
    from advisor.render.answers import catalog as report
    from catalog.gpus import all_gpus, find_gpu

    _one_or_many("gpus", search, all_gpus(), find_gpu, report.gpu_columns, report.gpu_facts, output)


@app.command(cls=Command)
@flattened
def prices(*, search: Search = None, output: PricesOutput) -> None:
    """List prices per GPU-hour, cheapest first, by GPU or provider: on demand, spot, reserved, rental, owned."""
    from advisor.render.answers import catalog as report
    from catalog.prices import all_prices

    if output.refresh:
        from catalog.price_feed import refresh_prices  # only then

        path, fetched = refresh_prices()
        typer.echo(
            f"{len(fetched)} offers of {len({price.provider for price in fetched})} clouds written to {path}", err=True
        )
    everything = sorted(all_prices(), key=lambda price: (price.gpu, price.illustrative, price.usd_per_gpu_hour))
    near = _matching(search, everything, lambda price: f"{price.gpu} {price.provider}")
    if search and not near:
        names = {squash(name): name for price in everything for name in (price.gpu, price.provider)}
        raise InputError(_nothing("prices", search, names))
    _many(near, report.price_columns, report.price_facts, output)


@app.command(cls=Command)
@flattened
def engines(*, search: Search = None, output: CatalogOutput) -> None:
    """List engines, or show one in full: version, GPUs it runs on, parallelism, formats."""
    from advisor.render.answers import catalog as report
    from catalog.engines import all_engines, find_engine

    if search:
        _one(report.engine_facts(find_engine(search)), [], output)
        return
    _many(all_engines(), report.engine_columns, report.engine_facts, output)


def _one_or_many(
    kind: str,
    search: str | None,
    entries: Sequence[Any],
    find: Callable[[str], Resolved[Any]],
    columns: Callable[[Sequence[Any]], list[Column]],
    facts: Callable[[Any], dict[str, Any]],
    output: CatalogOutput,
) -> None:
    """Tell all about what ``search`` names, or list what is called like it."""
    from catalog.tables import table

    near = _matching(search, entries, lambda entry: entry.name)
    if search and _means_one(table(kind), search, near):
        resolved = find(search)
        _one(facts(resolved.value), [note.text for note in resolved.notes], output)
    else:
        _many(near, columns, facts, output)


def _means_one(known: CatalogTable, search: str, near: Sequence[Any]) -> bool:
    """Return whether to tell all about what ``search`` names rather than to list what is called like it."""
    meaning = known.meaning(search)
    if meaning is None:
        return not near
    return not meaning.ambiguous or len(near) < 2


def _matching(search: str | None, entries: Sequence[Any], name: Callable[[Any], str]) -> list[Any]:
    wanted = squash(search or "")
    return [entry for entry in entries if wanted in squash(name(entry))]


def _nothing(kind: str, search: str, names: Mapping[str, str]) -> str:
    near = closest(search, names)
    hint = f"closest: {', '.join(near)}" if near else f"'advisor catalog {kind}' lists all"
    return f'no {kind} match "{search:.60}"; {hint}'


def _many(
    entries: Sequence[Any],
    columns: Callable[[Sequence[Any]], list[Column]],
    facts: Callable[[Any], dict[str, Any]],
    output: CatalogOutput,
) -> None:
    from advisor.prediction.presentation import header
    from advisor.render.document import Document, Section, Table

    answer(
        output,
        lambda: Document(title="Catalog", sections=[Section(table=Table(columns=columns(entries)))]),
        body=lambda: {**header("catalog/1"), "entries": [facts(entry) for entry in entries]},
        rows=lambda: [{name: _flat(value) for name, value in facts(entry).items()} for entry in entries],
    )


def _one(facts: dict[str, Any], notes: Sequence[str], output: CatalogOutput) -> None:
    from advisor.prediction.presentation import header
    from advisor.render.answers.catalog import shown_value
    from advisor.render.document import Document, Section
    from advisor.render.tables import Column

    shown = {name: shown_value(name, value) for name, value in facts.items()}
    columns = [
        Column(name="fact", cells=list(shown), right=False),
        Column(name="value", cells=list(shown.values()), right=False),
    ]
    notes_lines = [("note", notes)] if notes else []
    answer(
        output,
        lambda: Document(title="Catalog", notes=notes_lines, sections=[Section(facts=shown)]),
        body=lambda: {**header("catalog-entry/1"), **facts},
        rows=lambda: [{name: _flat(value) for name, value in facts.items()}],
        columns=lambda: columns,
    )


def _flat(value: Any) -> Any:
    """Return a value that fits one cell of a CSV file."""
    if isinstance(value, dict):
        return " ".join(f"{key}={entry}" for key, entry in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
