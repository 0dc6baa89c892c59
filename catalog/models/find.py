"""Models by name: the shipped catalog, the user's own, a ``config.json`` on disk, or one on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from catalog.bounds import check_model
from catalog.errors import InputError, Note, Resolved
from catalog.models.gguf_mixtures import mixture_of, with_mixture
from catalog.models.sizes import active_parameters, checkpoint_share, parameters, weight_share
from catalog.models.spellings import BLOCKS, GGUF, Reading, read_spelling
from catalog.schema import Model
from catalog.tables import CatalogTable, table
from catalog.units import GIB

__all__ = ["active_parameters", "all_models", "find_model", "parameters"]

SAME_SIZE = 0.01
"""Share by which a checkpoint may differ from its count without a word."""
REPOSITORY = re.compile(r"[\w.\-]{1,96}/[\w.\-]{1,96}", re.ASCII)
"""A Hugging Face id: an organisation and a name."""
EMBEDS = re.compile(r"\b(bge|e5|gte|minilm|nomic|jina|\w*embed\w*|\w*rerank\w*|colbert)\b", re.IGNORECASE)
"""What names of models that embed or rank text have in them."""


def find_model(name: str) -> Resolved[Model]:
    """Return the model that ``name`` means: a path to a ``config.json``, a catalog name or alias, or a Hugging Face id.

    An explicit path (it exists, or is spelled like one) beats the catalog, which beats the hub. A short name that could
    mean several models is read as one of them, and the notes say which.

    Raises:
        InputError: nothing of that name, or its ``config.json`` is unusable.

    """
    if not isinstance(name, str) or not name.strip():
        raise InputError("no model named; give a catalog name such as llama-13b, a Hugging Face id, or a config.json")
    name = name.strip()
    if name.casefold().endswith(".gguf"):
        from catalog.models.gguf import read_gguf  # only for files

        return _with_warnings(read_gguf(Path(name).expanduser()))
    if _is_path(name):
        from catalog.models.hf_config import read_config  # only for files

        return _with_warnings(read_config(Path(name).expanduser()))
    models = table("models")
    meaning = models.meaning(name)
    if meaning is None:
        reading = read_spelling(name, models.meanings)
        return _read_so(name, reading, models) if reading else _from_hub(name, models)
    model = _built(models, meaning.entry, meaning.name)
    return Resolved(model, (Note(f'"{name}" read as {model.name}'),) if meaning.ambiguous else ())


def _read_so(name: str, reading: Reading, models: CatalogTable) -> Resolved[Model]:
    """Return the model that a spelling is read as, in the format that it names, and a note that says so."""
    model = _built(models, reading.meaning.entry, reading.meaning.name)
    note = Note(
        f'"{name}" read as {model.name}' + (f" in {_format_read(reading)}" if reading.quantization else ""),
        "warning" if reading.guessed else "note",
    )
    if reading.quantization == GGUF:
        # an engine takes a repository of several files only with the one that it shall load
        file = f":{_format_read(reading)}" if "/" in name and reading.mixture.casefold() == GGUF else ""
        mixed = with_mixture(replace(model, name=name + file), mixture_of(reading.mixture))
        return Resolved(check_model(mixed), (note,))
    if reading.quantization and reading.quantization != model.quantization:
        form, scales = reading.quantization, reading.scale_bits
        blocks = form == "fp8" and BLOCKS.search(name) is not None
        model = check_model(
            replace(model, name=name, quantization=form, formats=(), scale_bits=scales, block_scales=blocks)
        )
    elif reading.quantization and not reading.guessed:
        model = replace(model, name=name)
    return Resolved(model, (note,))


def _format_read(reading: Reading) -> str:
    return mixture_of(reading.mixture).upper() if reading.quantization == GGUF else reading.quantization


def all_models() -> tuple[Model, ...]:
    """Return every model of the catalog, the user's included, in the order of the files."""
    models = table("models")
    return tuple(_built(models, name, name) for name in models.entries)


def _built(models: CatalogTable, entry: str, name: str) -> Model:
    """Return the model of an entry, whose fields are those of ``Model`` or, in ``config``, those of a ``config.json``."""
    values = models.values(entry)
    config = values.pop("config", None)
    if config is None:
        return check_model(models.build(Model, entry, name=name))
    return _configured(json.dumps(config), name, tuple(sorted(values.items())), models.entries[entry].where)


@lru_cache(maxsize=1024)
def _configured(config: str, name: str, facts: tuple[tuple[str, Any], ...], where: str) -> Model:
    """Return the model of a configuration in the catalog, with what else is known of it."""
    from catalog.models.hf_config import model_from_config  # only for entries that hold one

    parsed = json.loads(config)
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: config is no table; it must hold the fields of a config.json")
    allowed = ("published_parameters", "published_source", "gated", "source")
    known = {key: value for key, value in facts if key in allowed}
    if wrong := next((key for key, _ in facts if key not in allowed), None):
        raise InputError(f"{where}: {wrong!r:.60} stands beside config; only {', '.join(allowed)} may")
    return replace(model_from_config(parsed, name, where=where), **known)


def _with_warnings(model: Model) -> Resolved[Model]:
    """Return a model that was read from a configuration, with a warning where its type is not known."""
    notes = [Note(f"{model.name}: {model.reading}", "warning")] if model.reading else []
    if difference := _difference(model):
        notes.append(Note(difference, "warning"))
    return Resolved(model, tuple(notes))


def _difference(model: Model) -> str:
    """Say by how much a checkpoint's size, where its files state it, differs from what the architecture counts; "" if it does not."""
    share = checkpoint_share(model)
    if abs(share - 1.0) <= SAME_SIZE:
        return ""
    held = model.checkpoint_bytes / GIB
    used = (
        "memory is counted from its files"
        if weight_share(model) == share
        else "memory is counted from the configuration"
    )
    return (
        f"{model.name}: its tensors have {held:.1f} GiB, {abs(share - 1.0):.1%} {'more' if share > 1 else 'less'} than "
        f"the {held / share:.1f} GiB that its configuration comes to; {used}"
    )


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
        if EMBEDS.search(name):
            raise InputError(
                f'"{shown}" embeds or ranks text; only models that write text, token by token, are modelled'
            )
        raise InputError(f'unknown model "{shown}"; {near}; or give a Hugging Face id or the path to a config.json')
    from catalog.models.hub import read_hub  # only for names the catalog does not have

    try:
        return _with_warnings(read_hub(name))
    except InputError as error:
        raise InputError(f'"{name}" is not in the catalog, and {error}; {near}; or give a config.json') from error
