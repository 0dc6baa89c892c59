"""What a fleet is asked for: models with their traffic and limits, pools of GPUs, and what must hold; read from YAML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, Len

from advisor.prediction.demand import PERCENTILE, read_demand
from advisor.prediction.inputs import chosen_price
from catalog.borders import checked
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.quantities import PER_SECOND, USD_PER_HOUR
from catalog.schema import Count, Deployment, require_positive
from catalog.yaml_files import read_yaml

if TYPE_CHECKING:
    from advisor.prediction.demand import Demand

Text = Annotated[str, Len(1, 200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """One model, its traffic and its limits, in the words of ``advisor plan``."""

    model: Text
    name: str = ""
    """What it is called in the answer; its model's name where empty."""
    rate: float | str | None = None
    """Requests a second; with a curve, on average over the day."""
    users: float | str | None = None
    think_time: float | str | None = None
    curve: Annotated[tuple[Annotated[float, Interval(ge=0, le=1e6)], ...], Len(0, 168)] = ()
    """Relative rates of equal parts of the time, such as 24 hours of a day; empty: always the same."""
    use: str | None = None
    input_len: int | str | None = None
    output_len: int | str | None = None
    ttft: float | str | None = None
    tpot: float | str | None = None
    e2e: float | str | None = None
    percentile: Annotated[float, Interval(gt=0, lt=100)] = PERCENTILE
    spread: Annotated[float, Interval(ge=0, le=3)] | None = None
    engine: str = "vllm"
    dtype: str = "auto"
    kv_dtype: str = "auto"
    max_model_len: Count | None = None

    @property
    def label(self) -> str:
        return self.name or self.model

    @property
    def deployment(self) -> Deployment:
        """Return the knobs that are stated; the layout is what is searched."""
        return Deployment(
            engine=self.engine, dtype=self.dtype, kv_dtype=self.kv_dtype, max_model_len=self.max_model_len
        )

    def demand(self) -> Demand:
        """Return lengths, limits and the mean rate.

        Raises:
            InputError: naming the model, and what is wrong.

        """
        flags = {
            name: getattr(self, name)
            for name in ("use", "users", "think_time", "input_len", "output_len", "ttft", "tpot", "e2e", "percentile")
        }
        try:
            stated = None if self.rate is None else PER_SECOND.read(self.rate, "rate")
            demand = read_demand(None, None, flags, percentile=PERCENTILE, rate=stated)
            rate = demand.workload.rate if stated is None else stated
            if rate is not None:
                require_positive("rate", rate, whole=False, most=1e5)
        except InputError as error:
            raise InputError(f"model {self.label}: {error}") from None
        if rate is None:
            raise InputError(f"model {self.label}: nothing says how much comes; state a rate, or users")
        if not demand.slo.limits:
            raise InputError(f"model {self.label}: there is no limit; state one of ttft, tpot and e2e, or a use")
        return replace(demand, workload=replace(demand.workload, rate=rate))

    def rates(self, mean: float, hours: int) -> list[float]:
        """Return requests a second in each of so many equal parts of the time."""
        if not self.curve:
            return [mean] * hours
        total = sum(self.curve)
        return [mean * part * len(self.curve) / total for part in self.curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPool:
    """GPUs of one kind at one price: those one has, or those one may rent."""

    gpu: Text
    name: str = ""
    """What it is called in the answer; its GPU's name where empty."""
    count: Annotated[int, Interval(ge=0, le=10**6)] | None = None
    """GPUs that there are at most; None: as many as it takes."""
    kind: Literal["owned", "reserved", "on-demand", "spot"] = "on-demand"
    """Owned and reserved ones cost the same whether they are used or not, others by the hour that they are."""
    price: float | str | None = None
    """Dollars per GPU-hour; None: the cheapest offer in the catalog, and nothing for owned ones."""

    @property
    def label(self) -> str:
        return self.name or self.gpu

    @property
    def fixed(self) -> bool:
        """Return whether its cost is the same however much of it is used."""
        return self.kind in {"owned", "reserved"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetQuestion:
    """Models, pools, and what must hold for all of them."""

    models: Annotated[tuple[FleetModel, ...], Len(1, 1000)]
    pools: Annotated[tuple[GpuPool, ...], Len(1, 200)]
    headroom: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """Limits hold at so much more than the rates, as a share."""
    spares: Annotated[int, Interval(ge=0, le=100)] = 0
    """Replicas of every model that may fail at once."""
    confidence: Annotated[float, Interval(ge=0.5, le=0.99)] = 0.9
    """Probability with which each replica keeps its limits at what it is given."""
    budget: float | str | None = None
    """Dollars an hour at most, on average over the time."""

    def __post_init__(self) -> None:
        for what, labels in (("model", [m.label for m in self.models]), ("pool", [p.label for p in self.pools])):
            twice = [label for label, times in Counter(labels).items() if times > 1]
            if twice:
                raise InputError(f"{what} {twice[0]!r:.60} is there twice; give each a name of its own (name: ...)")
        lengths = {len(model.curve) for model in self.models if model.curve}
        if len(lengths) > 1:
            raise InputError(
                f"curves have {' and '.join(map(str, sorted(lengths)))} parts; they must all have the same number"
            )
        for model in self.models:
            if model.curve and not sum(model.curve) > 0:
                raise InputError(f"model {model.label}: the curve is 0 everywhere; leave out the model")
        for pool in self.pools:
            if pool.fixed and pool.count is None:
                raise InputError(f"pool {pool.label}: say how many GPUs are {pool.kind} (count: 8)")

    @property
    def hours(self) -> int:
        """Return the equal parts that the time has."""
        return max((len(model.curve) for model in self.models), default=0) or 1

    @property
    def budget_usd_hour(self) -> float | None:
        return None if self.budget is None else USD_PER_HOUR.read(self.budget, "budget")


def read_fleet(source: str | Path | Mapping[str, Any] | FleetQuestion) -> FleetQuestion:
    """Return a fleet's question from a YAML or JSON file, a mapping, or as it is.

    Raises:
        InputError: it cannot be read, or something in it cannot be.

    """
    if isinstance(source, FleetQuestion):
        return source
    if isinstance(source, Mapping):
        return checked(FleetQuestion, dict(source), "fleet")
    path = Path(source)
    content = read_yaml(path, "a fleet")
    if not isinstance(content, dict):
        raise InputError(f"{path}: it must have models and pools, each a list")
    return checked(FleetQuestion, content, str(path))


def price_of(pool: GpuPool) -> float:
    """Return dollars per GPU-hour.

    Raises:
        InputError: there is no such GPU, or no price.

    """
    name = find_gpu(pool.gpu).value.name
    if pool.price is not None:
        price = USD_PER_HOUR.read(pool.price, f"pool {pool.label}: price")
        if not (math.isfinite(price) and 0.0 <= price <= 1e4):
            raise InputError(
                f"pool {pool.label}: price is {pool.price!r:.40}; it must be from 0 to 10000 dollars per GPU-hour"
            )
        return price
    if pool.kind == "owned":
        return 0.0
    offer = chosen_price(name, None, illustrative=False)
    if offer is None:
        raise InputError(
            f"pool {pool.label}: there is no price of {name}; give one (price: 2.50, dollars per GPU-hour)"
        )
    return offer.usd_per_gpu_hour


def pairs_of(question: FleetQuestion) -> list[tuple[int, str, int]]:
    """Return every model with every kind of GPU, and the GPUs that a replica may take of it at most."""
    nodes: dict[str, int] = {}
    for pool in question.pools:
        gpu = find_gpu(pool.gpu).value
        there = gpu.gpus_per_node if pool.count is None else min(gpu.gpus_per_node, pool.count)
        if there:
            nodes[gpu.name] = max(nodes.get(gpu.name, 0), there)
    return [(number, gpu, node) for number in range(len(question.models)) for gpu, node in nodes.items()]
