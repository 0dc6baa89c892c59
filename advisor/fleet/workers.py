"""Where the parts of a fleet's plan are worked on: processes of this machine, or a cluster that runs."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EXAMPLES = "2 (processes) or dask://HOST:8786"


@contextlib.contextmanager
def workers_of(workers: int | str) -> Iterator[int]:
    """Set joblib's backend up, and yield the number of jobs that it takes at once.

    Args:
        workers: processes of this machine, or the address of a Dask scheduler that runs.

    Raises:
        InputError: it is none of these, its package is not installed, or nothing answers there.

    """
    from joblib import parallel_config

    if isinstance(workers, int) or workers.isdecimal():
        count = int(workers)
        if not 1 <= count <= 4096:
            raise InputError(f"workers is {count}; it must be from 1 to 4096 processes, or an address: {EXAMPLES}")
        with parallel_config(backend="loky", inner_max_num_threads=max((os.cpu_count() or 1) // count, 1)):
            yield count
        return
    scheme, _, place = workers.partition("://")
    if scheme == "dask" and place:
        with _dask(place) as client, parallel_config(backend="dask", client=client):
            yield -1
    else:
        raise InputError(f"workers is {workers!r:.60}; it must be a number or an address: {EXAMPLES}")


def results(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[Any]:
    """Call the function with each tuple of arguments, so many at once, and yield the results in their order."""
    from joblib import Parallel, delayed

    if jobs == 1:
        yield from (function(*given) for given in arguments)
        return
    yield from Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(*given) for given in arguments)


@contextlib.contextmanager
def _dask(place: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError("dask:// needs Dask; install advisor with the extra [dask]") from None
    try:
        client = Client(f"tcp://{place}", timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {place:.100}: {' '.join(str(error).split()):.100}") from None
    with client:
        yield client
