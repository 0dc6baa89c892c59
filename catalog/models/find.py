"""Models by name: the shipped catalog, the user's own, a ``config.json`` on disk, or one on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from catalog.bounds import check_model
from catalog.errors import InputError, Note, Resolved
from catalog.models.sizes import active_parameters, parameters
from catalog.schema import Model
from catalog.tables import CatalogTable, table

__all__ = ["active_parameters", "all_models", "find_model", "parameters"]

REPOSITORY = re.compile(r"[\w.\-]{1,96}/[\w.\-]{1,96}", re.ASCII)
"""A Hugging Face id: an organisation and a name."""


def find_model(name: str) -> Resolved[Model]:
    """The model that ``name`` means: a path to a ``config.json``, a catalog name or alias, or a Hugging Face id.

    An explicit path (it exists, or is spelled like one) beats the catalog, which beats the hub. A short name that could
    mean several models is read as one of them, and the notes say which.

    Raises:
        InputError: nothing of that name, or its ``config.json`` is unusable.

    """
    if not isinstance(name, str) or not name.strip():
        raise InputError("no model named; give a catalog name such as llama-13b, a Hugging Face id, or a config.json")
    name = name.strip()
    if _is_path(name):
        from catalog.models.hf_config import read_config  # only for files

        return Resolved(read_config(Path(name).expanduser()))
    models = table("models")
    meaning = models.meaning(name)
    if meaning is None:
        return _from_hub(name, models)
    model = check_model(models.build(Model, meaning.entry, name=meaning.name))
    return Resolved(model, (Note(f'"{name}" read as {model.name}'),) if meaning.ambiguous else ())


def all_models() -> tuple[Model, ...]:
    """Every model of the catalog, the user's included, in the order of the files."""
    models = table("models")
    return tuple(check_model(models.build(Model, name)) for name in models.entries)


def _is_path(name: str) -> bool:
    if name.endswith(".json") or name.startswith((".", "/", "~", "\\")):
        return True
    try:
        # a folder that merely is called like a catalog name ("./llama-13b" says it clearly) must hold a config to count
        return (Path(name) / "config.json").is_file()
    except (OSError, ValueError):
        return False


def _from_hub(name: str, models: CatalogTable) -> Resolved[Model]:
    near = models.suggestion(name, otherwise="'advisor catalog' lists those known")
    if not REPOSITORY.fullmatch(name):
        shown = " ".join(name.split())[:200]
        raise InputError(f'unknown model "{shown}"; {near}; or give a Hugging Face id or the path to a config.json')
    from catalog.models.hub import read_hub  # only for names the catalog does not have

    try:
        return Resolved(read_hub(name))
    except InputError as error:
        raise InputError(f'"{name}" is not in the catalog, and {error}; {near}; or give a config.json') from error
