"""The layouts that a recommendation chooses from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from catalog.engines import check_contexts, context_problem, valid_tp
from catalog.engines.parallelism import MOST_GPUS
from catalog.errors import InputError
from catalog.schema import require_positive
from search.parallelism import context_degrees, parallelisms

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalog.engines import Engine
    from catalog.schema import Cluster, Model
    from search.parallelism import Parallelism


def checked_degree(dcp: int | None, engine: Engine, speculate: str | None = None) -> int | None:
    """Return a stated decode context parallel degree, if any.

    Raises:
        InputError: it is none, or the engine has none, or not beside drafts.

    """
    if dcp is None:
        return None
    require_positive("dcp", dcp, most=MOST_GPUS)
    check_contexts(dcp, engine, drafts=speculate is not None)
    return dcp


def layouts_of(
    model: Model, cluster: Cluster, engine: Engine, *, dcp: int | None, length: int, fits: Callable[[int, int], bool]
) -> list[Parallelism]:
    """List the layouts that ``engine`` has for requests of ``length`` tokens, of a decode context parallel degree where one is stated.

    Raises:
        InputError: there is none.

    """
    known = engine.parallel
    layouts = [
        layout
        for layout in parallelisms(
            model,
            cluster,
            max_pp=None if "pp" in known else 1,
            expert_parallel=cast("Any", "all" if model.moe_layers and "ep" in known else "none"),
            fits=fits,
            contexts=partial(context_degrees, model, stated=dcp, length=length, supported="dcp" in known),
        )
        if layout.dp == 1 or "dp" in known
    ]
    if layouts:
        return layouts
    degrees = valid_tp(model, most=cluster.num_gpus)
    if dcp is not None and dcp > 1 and degrees:
        raise InputError(f"dcp is {dcp}, but no layout on {cluster} has it: {context_problem(model, degrees[-1], dcp)}")
    raise InputError(
        f"{model.name} has {model.num_attention_heads} attention heads and cannot be laid out on "
        f"{cluster}; tensor parallel degrees that work: {', '.join(map(str, degrees))}"
    )
