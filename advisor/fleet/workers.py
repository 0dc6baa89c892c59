"""Where the parts of a fleet's plan are worked on: processes of this machine, or a cluster that runs."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Work = Callable[..., Any]
    Calls = Callable[[Work, Sequence[tuple[Any, ...]]], Iterator[Any]]
    """Calls a function with each tuple of arguments and yields the results in their order."""

EXAMPLES = "2 (processes), dask://HOST:8786, ray://HOST:10001 or ray://auto"
LOSSES = frozenset({"TerminatedWorkerError", "KilledWorker", "WorkerCrashedError", "OutOfMemoryError"})
"""What joblib, Dask and Ray raise where workers die at a task, by name: two of the three may not be installed."""
GONE = frozenset(
    {"CommClosedError", "FutureCancelledError", "CancelledError", "SchedulerClosedError", "ConnectionError", "RayError"}
)
"""What they raise where the cluster itself is lost."""
RESTARTS = 3
"""Workers that may die at the same work; then it is the work that kills them."""


@contextlib.contextmanager
def workers_of(workers: int | str) -> Iterator[Calls]:
    """Set up where work is done, and yield what has it done there: with any workers the same results in the same order.

    Where a worker dies, what it had begun is begun again elsewhere, for it depends on nothing but its arguments.

    Args:
        workers: processes of this machine, or the address of a Dask scheduler or a Ray cluster that runs.

    Raises:
        InputError: it is none of these, its package is not installed, or nothing answers there.

    """
    from joblib import parallel_config

    if isinstance(workers, int) or workers.isdecimal():
        count = int(workers)
        if not 1 <= count <= 4096:
            raise InputError(f"workers is {count}; it must be from 1 to 4096 processes, or an address: {EXAMPLES}")
        if count == 1:
            yield called_here
            return
        with parallel_config(backend="loky", inner_max_num_threads=max((os.cpu_count() or 1) // count, 1)):
            yield partial(_called, jobs=count)
        return
    scheme, _, place = workers.partition("://")
    if scheme == "dask" and place:
        with _dask(place) as client, parallel_config(backend="dask", client=client):
            yield partial(_called, jobs=-1)
    elif scheme == "ray" and place:
        with _ray(place) as calls:
            yield calls
    else:
        raise InputError(f"workers is {workers!r:.60}; it must be a number or an address: {EXAMPLES}")


def called_here(function: Work, arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call it in this process, one after the other."""
    return (function(*given) for given in arguments)


def _called(function: Work, arguments: Sequence[tuple[Any, ...]], *, jobs: int) -> Iterator[Any]:
    """Call it through joblib, on the backend that is set up."""
    from joblib import Parallel, delayed

    done, lost = 0, 0
    while done < len(arguments):
        try:
            for result in Parallel(n_jobs=jobs, return_as="generator")(
                delayed(function)(*given) for given in arguments[done:]
            ):
                done, lost = done + 1, 0
                yield result
        except Exception as error:  # noqa: BLE001  whatever a cluster raises; all but the loss of a worker goes on
            lost += 1
            if not _lost(error) or lost > RESTARTS:
                raise _cause(error) from None


def _lost(error: Exception) -> bool:
    return bool(LOSSES & {kind.__name__ for kind in type(error).__mro__})


def _cause(error: Exception) -> Exception:
    """Return what the user is told: of workers that die again and again, or of a cluster that is lost, one line."""
    if not _lost(error):
        if GONE & {kind.__name__ for kind in type(error).__mro__}:
            return InputError(
                f"the cluster was lost ({type(error).__name__}); start it again and ask again, or take processes: --workers 2"
            )
        return error
    return InputError(
        f"workers ended {RESTARTS + 1} times at the same work ({type(error).__name__}); it may take more memory than they "
        "have: take fewer workers"
    )


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


@contextlib.contextmanager
def _ray(place: str) -> Iterator[Calls]:
    """Join a cluster. Its tasks are begun again where a worker dies; its backend of joblib would give no result before the last."""
    try:
        import ray
    except ImportError:
        raise InputError("ray:// needs Ray; install advisor with the extra [ray]") from None
    joined = ray.is_initialized()
    try:
        if not joined:
            ray.init("auto" if place == "auto" else f"ray://{place}", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster answers at {place:.100}: {' '.join(str(error).split()):.100}") from None

    def called(function: Work, arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        task = ray.remote(function).options(max_retries=RESTARTS)
        try:
            for reference in [task.remote(*given) for given in arguments]:
                yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise _cause(error) from None

    try:
        yield called
    finally:
        if not joined:
            ray.shutdown()
