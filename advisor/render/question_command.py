"""The command that asks a question of Python or of a page again: every keyword as the command line spells it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import advisor
from advisor.prediction.demand import PERCENTILE
from advisor.prediction.option_words import ADAPTER_OPTIONS, lengths, limits
from advisor.render.console import command_lines
from advisor.render.document import ShellCommand
from advisor.render.next_command import gpu_words
from catalog.features import Adapters
from catalog.schema import Deployment, Slo, Workload
from catalog.yaml_files import here_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.schema import Model

WIDTH = 100
"""Letters of a line."""
CLASSES_FILE = "classes.yaml"
SPELLED = {
    "kv_link_gbps": "--kv-link",
    "max_batch": "--max-num-seqs",
    "dtypes": "--dtype",
    "kv_dtypes": "--kv-cache-dtype",
    "kv_dtype": "--kv-cache-dtype",
    "duration_s": "--duration",
    **ADAPTER_OPTIONS,
}
"""Options that are not called like their keyword."""
OF_REQUESTS = ("plan", "simulate")
"""Commands whose limits are on a percentile of the requests, where nobody says; those of others are on the mean."""
NO_OPTION = ("runs", "progress")
"""Keywords that no option has: what was measured, and who watches."""


def question_command(name: str, model: Model, gpus: str, question: Mapping[str, Any], *, comment: str = "") -> str:
    """Write ``advisor NAME`` with the keywords of the public function of that name, for a shell.

    Args:
        name: of the command and of the function.
        model: the model, its images aside.
        gpus: as ``--gpus`` takes them.
        question: keywords of the function; those that are what it takes without them are left out.
        comment: what the command lacks.

    """
    usual = {key: parameter.default for key, parameter in inspect.signature(getattr(advisor, name)).parameters.items()}
    words: list[str] = []
    percentile = PERCENTILE if name in OF_REQUESTS else None
    for keyword, value in question.items():
        if value is not None and keyword not in NO_OPTION and value != usual.get(keyword):
            words += _words(keyword, value, percentile)
    command = ShellCommand(argv=["advisor", name, "--model", model.name, *gpu_words(gpus), *words], comment=comment)
    return "\n".join([*_classes_file(question.get("classes")), *command_lines(command, WIDTH)])


def _words(keyword: str, value: Any, percentile: float | None) -> Iterator[str]:
    """Yield the options of one keyword."""
    if isinstance(value, Workload):
        yield from lengths(value)
        yield from _options({"rate": value.rate, "concurrency": value.concurrency})
    elif isinstance(value, Slo):
        yield from limits(value)
        if value.limits and value.percentile != percentile:
            yield from _options({"percentile": value.percentile or 0.0})
    elif isinstance(value, (Deployment, Adapters)):
        stated = {field.name: getattr(value, field.name) for field in fields(value)}
        for field in fields(value):
            if stated[field.name] is not None and stated[field.name] != field.default:
                yield from _words(field.name, stated[field.name], percentile)
    elif keyword == "classes":
        yield from ("--classes", CLASSES_FILE)
    elif isinstance(value, Mapping):  # prices by the name of a GPU, or of all
        for key, number in value.items():
            yield from (_option(keyword), f"{key}={_written(number)}" if key else _written(number))
    else:
        yield from _options({keyword: value})


def _options(values: Mapping[str, Any]) -> Iterator[str]:
    for keyword, value in values.items():
        if value is True:
            yield _option(keyword)
        elif value is not None and value is not False:
            yield from (_option(keyword), _written(value))


def _option(keyword: str) -> str:
    return SPELLED.get(keyword, f"--{keyword.replace('_', '-')}")


def _written(value: object) -> str:
    """Write a value so that it is read back as it is."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _classes_file(classes: object) -> list[str]:
    """Return the lines that write the file of classes."""
    if not isinstance(classes, Mapping):
        return []
    return [here_document(CLASSES_FILE, classes)]
