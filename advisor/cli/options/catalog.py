"""Options of ``advisor catalog``."""

from __future__ import annotations

from typing import Annotated

from advisor.cli.groups import flag, group
from advisor.cli.options.values import checked_format, format_names


@group("Output")
class CatalogOutput:
    """The format of a list."""

    format_: Annotated[str, flag("--format", metavar="FORMAT", completion=format_names, callback=checked_format)] = (
        "table"
    )
    """table, json, csv, yaml or markdown."""
    wide: Annotated[bool, flag("--wide")] = False
    """Show all columns, however narrow the terminal."""


@group("Output")
class PricesOutput(CatalogOutput):
    """The format of a list of prices, and whether it is fetched anew."""

    refresh: Annotated[bool, flag("--refresh")] = False
    """First fetch the offers of eight clouds (dstack's gpuhunt) into $ADVISOR_HOME/prices."""
