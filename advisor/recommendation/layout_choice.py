"""The layouts that a recommendation chooses from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from catalog.engines import check_contexts, context_problem, valid_tp
from catalog.engines.all_to_all import exchange_backend
from catalog.engines.parallelism import MOST_GPUS
from catalog.errors import InputError
from catalog.schema import Deployment, require_positive
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


def checked_back_end(name: str, model: Model, cluster: Cluster, engine: Engine) -> str:
    """Return a stated back end between replicas that share experts, empty for the engine's default; raises ``InputError`` like
    ``exchange_backend``.
    """
    shared = Deployment(engine=engine.name, dp=2, ep=2, all2all_backend=name)
    return exchange_backend(shared, model, cluster, engine)


def layouts_of(
    model: Model,
    cluster: Cluster,
    engine: Engine,
    *,
    dcp: int | None,
    length: int,
    fits: Callable[[int, int], bool],
    together: bool = False,
) -> list[Parallelism]:
    """List the layouts that ``engine`` has for requests of ``length`` tokens, of a decode context parallel degree where one is stated; with
    ``together`` those alone whose replicas share their experts.

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
        if (layout.dp == 1 or "dp" in known) and (layout.ep > layout.tp or not together)
    ]
    if layouts:
        return layouts
    if together:
        spread = f" with a dcp of {dcp}" if dcp is not None and dcp > 1 else ""
        other = "; leave out dcp or all2all_backend" if spread else "; leave out all2all_backend"
        raise InputError(f"no layout of {model.name} on {cluster} has replicas that share experts{spread}{other}")
    degrees = valid_tp(model, most=cluster.num_gpus)
    inside = [tp for tp in degrees if tp <= cluster.gpus_per_node]
    if dcp is not None and dcp > 1 and inside:
        raise InputError(f"dcp is {dcp}, but no layout on {cluster} has it: {context_problem(model, inside[-1], dcp)}")
    raise InputError(
        f"{model.name} has {model.num_attention_heads} attention heads and cannot be laid out on "
        f"{cluster}; tensor parallel degrees that work: {', '.join(map(str, degrees))}"
    )
