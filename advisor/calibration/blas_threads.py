"""Linear algebra of matrices too small to be shared out: on a busy machine, threads of BLAS wait for each other longer than they compute."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that computes the same with one thread of BLAS.

    A fit takes singular values of some hundred rows by the parameters, dozens of times: with a thread a core that took four times
    the CPU time on two cores, and up to a second for each on busy ones.
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        from threadpoolctl import threadpool_limits  # only fits need it

        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return alone
