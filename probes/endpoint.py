"""An OpenAI-compatible server, as it looks from outside: what it tells of itself, before any traffic."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from catalog.errors import InputError
from catalog.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the server's key, if it wants one; it is never printed or kept."""

ANSWER_S = 10.0
"""So long a server may take to say what it is."""

LONGEST = 2**22
"""Bytes of an answer that are read: it comes from somewhere else."""

OWNERS = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "tensorrt-llm", "lmdeploy": "lmdeploy"}
"""What engines write as ``owned_by`` of their models, and the catalog's names of the engines."""

DENIED = (401, 403)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model of a server."""

    name: str
    """What requests must call it."""
    aliases: tuple[str, ...] = ()
    """What else the server says it is: the checkpoint's name or folder."""
    engine: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that answers."""

    url: str
    """As it may be shown: without credentials, and without ``/v1``."""
    models: tuple[ServedModel, ...]
    version: str | None = None
    """Of the engine, where it tells."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The engine's own settings, where it tells them (SGLang)."""


def plain_url(text: str, option: str = "--endpoint") -> str:
    """Return the server's address without ``/v1``, as requests are sent to it and as it may be shown.

    Raises:
        InputError: it is no HTTP address, or one with a password, which would be kept in files and lists of processes.

    """
    try:
        parts = urlsplit(text.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        shown = redacted(text.strip())
        raise InputError(f"{option} is {shown!r:.80}; it must be a server's address such as http://localhost:8000")
    if "@" in text:  # wherever it stands: with a "#" or "?" in the password what precedes it is read as the host
        raise InputError(f"{option} has a user or password in it; leave it out and give the server's key in ${KEY}")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def read_endpoint(url: str) -> Endpoint:
    """Read what the server at an address says of itself.

    Raises:
        InputError: nobody answers there, the key is refused, or it is no server of OpenAI's interface.

    """
    shown = plain_url(url)
    listed = _answer(shown, "/v1/models")
    rows = listed.get("data") if isinstance(listed, dict) else None
    models = tuple(_served(row) for row in rows or () if isinstance(row, dict) and isinstance(row.get("id"), str))
    if not models:
        raise InputError(f"{shown} lists no model under /v1/models; is it an OpenAI-compatible server?")
    settings = next((answer for path in ("/server_info", "/get_server_info") if (answer := _told(shown, path))), {})
    version = _told(shown, "/version").get("version") or settings.get("version")
    return Endpoint(url=shown, models=models, settings=settings, version=version if isinstance(version, str) else None)


def _served(row: Mapping[str, Any]) -> ServedModel:
    root, length = row.get("root"), row.get("max_model_len")
    return ServedModel(
        name=row["id"],
        aliases=(root,) if isinstance(root, str) and root != row["id"] else (),
        engine=OWNERS.get(str(row.get("owned_by")).casefold()),
        max_model_len=length if isinstance(length, int) and length > 0 else None,
    )


def _told(url: str, path: str) -> dict[str, Any]:
    """Return what a server says under a path; nothing if it has nothing to say."""
    try:
        answer = _answer(url, path)
    except InputError:  # every engine has its own paths
        return {}
    return answer if isinstance(answer, dict) else {}


def _answer(url: str, path: str) -> Any:
    """Return the JSON under a path; raise ``InputError`` where there is none."""
    request = urllib.request.Request(url + path, headers={"Accept": "application/json"})  # noqa: S310  http(s) only, see plain_url
    if key := os.environ.get(KEY):
        # a redirection to somewhere else must not take the key along
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310  likewise
            return json.loads(answer.read(LONGEST))
    except urllib.error.HTTPError as error:
        with error:
            raise InputError(_refused(url, path, error.code)) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise InputError(
            f"nobody answers at {url} ({getattr(why, 'strerror', None) or why}); is the server up?"
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{url}{path} does not answer in JSON; is it an OpenAI-compatible server?") from None


def _refused(url: str, path: str, code: int) -> str:
    if code in DENIED:
        had = "refuses the key in" if os.environ.get(KEY) else "wants a key; give it in"
        return f"{url} {had} ${KEY} (HTTP {code})"
    return f"{url}{path} answers HTTP {code}; is it an OpenAI-compatible server?"
