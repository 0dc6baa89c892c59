"""Functions that numba compiles. Importing this module imports numba; nothing but a simulation does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def compiled(function: F) -> F:
    """Compile a function, and keep it on disk where a folder for it can be written."""
    try:
        machine_code: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        machine_code = numba.njit(nogil=True)(function)
    return cast("F", machine_code)
