"""Configurations from the Hugging Face hub, or from its local cache; nothing else is fetched and nothing is run."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.models.checkpoint import CheckpointSize, sum_parameters
from catalog.models.hf_config import read_config, with_checkpoint
from catalog.models.json_file import MOST_BYTES

if TYPE_CHECKING:
    from catalog.schema import Model

REQUEST_S = 3.0
DEADLINE_S = 8.0
"""Longest wait in all: name look-ups and retries are not under a request's own limit."""


def read_hub(repository: str) -> Model:
    """Return the model of a hub repository ("org/name"), from its ``config.json`` and the sizes that the hub states of its weights.

    Raises:
        InputError: no such repository, no access, no network in time, or an unusable configuration.

    """
    results: list[tuple[Path, bool] | InputError] = []
    sizes: list[CheckpointSize | None] = []

    def ask() -> None:
        results.append(_attempt(repository))
        if not isinstance(results[0], InputError) and results[0][1]:
            sizes.append(_stated(repository))

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    result = results[0] if results else InputError(f"the hub did not answer within {DEADLINE_S:g} s")
    if isinstance(result, InputError):
        raise result
    model = read_config(result[0], name=repository)
    return with_checkpoint(model, sizes[0]) if sizes and not model.checkpoint_bytes else model


def _attempt(repository: str) -> tuple[Path, bool] | InputError:
    try:
        return _fetch(repository)
    except InputError as error:
        return error
    except Exception as error:  # noqa: BLE001  the hub's client raises its HTTP library's errors, which vary by version
        return InputError(f"Hugging Face has no such model or cannot be reached ({_reason(error)})")


def _stated(repository: str) -> CheckpointSize | None:
    """Return the sizes by format that the hub read from the headers of the weights; None where it states none."""
    import huggingface_hub as hub

    try:
        parts = hub.model_info(repository, timeout=REQUEST_S, expand=["safetensors"]).safetensors
        return sum_parameters(parts.parameters.items()) if parts is not None else None
    except Exception:  # noqa: BLE001  the configuration is enough, and this one varies by version and by hub
        return None


def _fetch(repository: str) -> tuple[Path, bool]:
    """Return where the configuration is, and whether it comes from the hub just now."""
    try:
        import huggingface_hub as hub  # an optional package
    except ImportError:
        return _refuse("the hub is not searched without huggingface_hub (pip install 'advisor[hub]')")
    cached = hub.try_to_load_from_cache(repository, "config.json")
    if isinstance(cached, str):
        return Path(cached), False
    size = hub.get_hf_file_metadata(hub.hf_hub_url(repository, "config.json"), timeout=REQUEST_S).size
    if size is not None and size > MOST_BYTES:
        return _refuse(f"the config.json of {repository} on the hub has {size} bytes, too many for one")
    return Path(hub.hf_hub_download(repository, "config.json", etag_timeout=REQUEST_S)), True


def _refuse(message: str) -> tuple[Path, bool]:
    raise InputError(message)


def _reason(error: Exception) -> str:
    """Return what went wrong, in a few words."""
    kinds = {
        "GatedRepoError": "its licence must be accepted there first, and a token given",
        "RepositoryNotFoundError": "no such public repository",
        "RemoteEntryNotFoundError": "it has no config.json",
        "EntryNotFoundError": "it has no config.json",
        "OfflineModeIsEnabled": "offline mode is on",
        "HFValidationError": "that is not a repository's name",
    }
    return kinds.get(type(error).__name__) or (" ".join(str(error).split())[:120] or type(error).__name__)
