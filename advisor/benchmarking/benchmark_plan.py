"""What is worth measuring on some GPUs in the time there is: which layouts, which batches, in which order. Pure."""

from __future__ import annotations

import heapq
import json
import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.benchmarking.shape_predictions import predictions_by_length
from advisor.benchmarking.traffic_plan import IN_FLIGHT, LENGTHS, offer_seconds, written
from catalog.engines import resolve, valid_pp, valid_tp
from catalog.errors import InputError
from catalog.schema import Deployment, require_positive
from probes.benchmark_plan import SHAPES
from probes.serving_benchmark import TrafficProfile
from probes.static_benchmark import REPEAT_S, warm_up_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from advisor.benchmarking.traffic_plan import Piece
    from advisor.perf_model.parameters import Parameters
    from advisor.simulator.arrivals import Arrivals
    from catalog.schema import Cluster, Measurement, Model

    Shape = tuple[int, int, int]

BATCHES = (1, 16, 64, 4, 256)
INPUT_LENS = (1024,)
OUTPUT_LENS = (128,)
"""Measured where the user names some of the three but not all; the most telling first."""

REPEATS = 3
LENGTH_MULTIPLE = 256
"""``max_model_len`` is the longest sequence to be measured, rounded up to this."""

SLACK = 2.0
SLACK_S = 20.0
"""A load may measure for this many times what is expected, and so many seconds, before it begins no new shape."""

POINT_S = 15.0
"""Shapes that take longer than this are left out (see ``Load``): others tell as much in less time."""

LINKS = {"nvswitch": "NVSwitch", "mesh": "NVLink mesh", "pairs": "NVLink pairs", "pcie": "PCIe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeQuestion:
    """What may be measured; an empty tuple where anything goes."""

    engine: str = "torch"
    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    input_len: tuple[int, ...] = ()
    output_len: tuple[int, ...] = ()
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    compiled: bool = True
    serving: bool = False
    """Measure under traffic: ``batch`` is requests in flight then."""
    trace: Arrivals | None = None
    """With ``serving``: arrivals in place of the Poisson ones."""
    listed: tuple[Shape, ...] = ()
    """Exactly these shapes, the most telling first, in place of batch, input_len and output_len."""

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "batch", "input_len", "output_len"):
            for value in getattr(self, name):
                require_positive(name, value, most=2**24)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """List (batch, input_len, output_len), the most telling first."""
        if self.serving:
            pairs = product(self.input_len or LENGTHS[:1], self.output_len or LENGTHS[1:])
            return tuple((count, *pair) for pair in pairs for count in self.batch or IN_FLIGHT)
        if self.listed:
            return self.listed
        if not (self.batch or self.input_len or self.output_len):
            return SHAPES
        lengths = product(self.input_len or INPUT_LENS, self.output_len or OUTPUT_LENS)
        return tuple((batch, *tokens) for tokens in lengths for batch in self.batch or BATCHES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One layout that fits, and the seconds of every shape, or offer, that fits in it, the most telling first."""

    deployment: Deployment
    """Resolved."""
    seconds: Mapping[Piece, float]

    @property
    def layout(self) -> tuple[int, int]:
        return self.deployment.tp, self.deployment.pp

    @property
    def gpus(self) -> int:
        return self.deployment.num_gpus

    @property
    def shapes(self) -> Mapping[Shape, float]:
        """Return the seconds of its static batches, traffic left out."""
        return {piece: seconds for piece, seconds in self.seconds.items() if isinstance(piece, tuple)}

    def only(self, pieces: Collection[Piece]) -> Candidate:
        return replace(self, seconds={piece: seconds for piece, seconds in self.seconds.items() if piece in pieces})


def candidates(
    model: Model,
    cluster: Cluster,
    question: ProbeQuestion,
    parameters: Parameters,
    *,
    check: Callable[[Deployment], None] = lambda _: None,
) -> tuple[list[Candidate], list[str]]:
    """List the layouts of a question in order of interest, and say why the others are left out, a line each.

    ``check`` refuses (``InputError``) what the engine cannot run.

    Raises:
        InputError: no layout or shape can be run whatever the memory; the message is that of the first.

    """
    most = cluster.num_gpus
    longest = question.max_model_len or model.max_position_embeddings
    shapes = _shapes_within(question, model, longest)
    max_model_len = question.max_model_len or min(_length(question, shapes), longest)
    able: list[Candidate] = []
    left_out: list[str] = []
    refused: list[InputError] = []
    for tp, pp in _layouts(model, question, most):
        if tp * pp > most:
            left_out.append(f"TP{tp} PP{pp}: takes {tp * pp} GPUs, {most} are named")
            continue
        wanted = Deployment(
            engine=question.engine,
            tp=tp,
            pp=pp,
            dtype=question.dtype,
            compiled=question.compiled,
            max_model_len=max_model_len,
            max_num_seqs=question.max_num_seqs,
        )
        try:
            resolved = resolve(wanted, model, cluster).value
            check(resolved)
        except InputError as error:
            refused.append(error)
            left_out.append(f"TP{tp} PP{pp}: {error}")
            continue
        evaluated = (
            offer_seconds(model, cluster, resolved, shapes, parameters, question.trace)
            if question.serving
            else shape_seconds(model, cluster, resolved, shapes, parameters)
        )
        if evaluated:
            able.append(Candidate(deployment=resolved, seconds=evaluated))
        else:
            left_out.append(f"TP{tp} PP{pp}: out of memory, not even one sequence fits beside the weights")
    if refused and len(refused) == len(left_out) and not able:
        raise refused[0]
    return by_interest(able), left_out


def _shapes_within(question: ProbeQuestion, model: Model, longest: int) -> list[Shape]:
    """List the shapes of at most ``longest`` tokens; raise ``InputError`` where there is none."""
    shapes = [shape for shape in question.shapes if shape[1] + shape[2] <= longest]
    if not shapes:
        least = min(shape[1] + shape[2] for shape in question.shapes)
        what = "max_model_len" if question.max_model_len else f"the positions of {model.name}"
        raise InputError(f"{least} tokens in and out are above {what}: at most {longest}")
    return shapes


def _length(question: ProbeQuestion, shapes: Sequence[Shape]) -> int:
    """Return the tokens of the longest sequence to be measured, rounded up to ``LENGTH_MULTIPLE``."""
    most = max(shape[1] + shape[2] for shape in shapes)
    if question.trace:
        most = max(most, int((question.trace.input_len + question.trace.output_len).max()))
    return math.ceil(most / LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _layouts(model: Model, question: ProbeQuestion, most: int) -> list[tuple[int, int]]:
    """List (tp, pp): those the user names, and of what is left open all that ``most`` GPUs allow."""
    tps = question.tp or valid_tp(model, most=max(most // min(question.pp, default=1), 1))
    return [(tp, pp) for tp in tps for pp in question.pp or valid_pp(model, most=max(most // tp, 1))]


def shape_seconds(
    model: Model,
    cluster: Cluster,
    deployment: Deployment,
    shapes: Sequence[Shape],
    parameters: Parameters,
    *,
    most_s: float = POINT_S,
) -> dict[Piece, float]:
    """Return the seconds it takes to measure each shape that fits into memory and runs for at most ``most_s``, repeats
    and warm-up included; none if the weights do not fit. The deployment is resolved.
    """
    seconds_by_piece: dict[Piece, float] = {}
    for input_len, output_len, batches, prediction in predictions_by_length(
        model, cluster, deployment, shapes, parameters, "static"
    ):
        room, times = prediction.cost_model.memory, prediction.times
        for i, batch in enumerate(batches):
            fits = room.fits[i] and batch * (input_len + output_len) <= room.kv_capacity_tokens[i]
            once = (float(times.prefill_ms[i]) + float(times.e2e_ms[i])) / 1e3
            if fits and once <= most_s:
                shape = (batch, input_len, output_len)
                seconds_by_piece[shape] = measuring_s(shape, float(times.prefill_ms[i]), float(times.e2e_ms[i]))
    return {shape: seconds_by_piece[shape] for shape in shapes if shape in seconds_by_piece}


def measuring_s(shape: Shape, prefill_ms: float, e2e_ms: float, repeats: int | None = None) -> float:
    """Return the seconds that ``probes.static_benchmark.measure`` spends on a shape; ``repeats`` where it is known how
    often it was timed.
    """
    output_len = shape[2]
    turn = (e2e_ms + (prefill_ms if output_len > 1 else 0.0)) / 1e3
    if repeats is None:
        repeats = max(1, min(REPEATS, math.ceil(REPEAT_S / max(turn, 1e-9))))
    step = (e2e_ms - prefill_ms) / max(output_len - 1, 1) / 1e3
    return repeats * turn + prefill_ms / 1e3 + step * (warm_up_tokens(shape) - 1)


def by_interest(able: Sequence[Candidate]) -> list[Candidate]:
    """Order the layouts, the most telling first: the fewest GPUs, which tell the kernels; the widest tensor parallel,
    which tells the links; the deepest pipeline; both together; then the rest, powers of two before odd sizes.
    """
    rest = sorted(able, key=lambda candidate: (not _power_of_two(candidate), -candidate.gpus, -candidate.deployment.tp))
    ordered: list[Candidate] = []
    firsts: list[Callable[[Candidate], Any]] = [
        lambda candidate: (-candidate.gpus, candidate.deployment.tp),
        lambda candidate: (candidate.deployment.pp == 1, candidate.deployment.tp),
        lambda candidate: (candidate.deployment.tp == 1, candidate.deployment.pp),
        lambda candidate: (
            min(candidate.layout) > 1,
            candidate.gpus,
            -abs(candidate.deployment.tp - candidate.deployment.pp),
        ),
    ]
    for merit in firsts:
        if rest:
            best = max(rest, key=merit)
            ordered.append(best)
            rest.remove(best)
    return ordered + rest


def _power_of_two(candidate: Candidate) -> bool:
    return candidate.gpus & (candidate.gpus - 1) == 0


def chosen(
    able: Sequence[Candidate], *, budget_s: float, start_s: float, gpus: int, at_once: int = 1
) -> tuple[list[Candidate], list[str]]:
    """Choose candidates with the shapes for which there is time, in the order to run them in, and say what there is no
    time for.

    Every layout has its first ``at_once`` shapes, or as many of them as there is time for, before any has another, and so
    on.
    """
    taken: list[Candidate] = []

    def fits(loads: Sequence[Candidate]) -> bool:
        return makespan(packed(loads, gpus), start_s=start_s, gpus=gpus) <= budget_s

    left_out = []
    for candidate in able:
        firsts = [candidate.only(list(candidate.seconds)[:count]) for count in range(at_once, 0, -1)]
        if first := next((some for some in firsts if fits([*taken, some])), None):
            taken.append(first)
        else:
            tp, pp = candidate.layout
            least = start_s + sum(firsts[-1].seconds.values())
            left_out.append(f"TP{tp} PP{pp}: no time is left for it, it takes at least {least:.0f} s")
    whole = {candidate.layout: candidate for candidate in able}
    for rank in range(1, max((len(candidate.seconds) for candidate in able), default=0)):
        for i, candidate in enumerate(taken):
            names = list(whole[candidate.layout].seconds)
            if rank < len(names) and names[rank] not in candidate.seconds:
                more = whole[candidate.layout].only([*candidate.seconds, names[rank]])
                if fits([*taken[:i], more, *taken[i + 1 :]]):
                    taken[i] = more
    return packed(taken, gpus), left_out


def packed(loads: Sequence[Candidate], gpus: int) -> list[Candidate]:
    """Order the loads so that few GPUs are idle: beside each those that follow it and fit."""
    waiting, ordered = list(loads), []
    while waiting:
        free = gpus
        for candidate in tuple(waiting):
            if candidate.gpus <= free:
                free -= candidate.gpus
                ordered.append(candidate)
                waiting.remove(candidate)
        assert free < gpus, "a load is wider than there are GPUs"
    return ordered


def makespan(loads: Sequence[Candidate], *, start_s: float, gpus: int) -> float:
    """Return the seconds until the last load has ended, where each starts when the ones before it have and enough GPUs
    are free.
    """
    return max(completion_times(loads, start_s=start_s, gpus=gpus), default=0.0)


def completion_times(loads: Sequence[Candidate], *, start_s: float, gpus: int) -> list[float]:
    """Return when each load ends, in seconds."""
    now, free = 0.0, gpus
    running: list[tuple[float, int]] = []
    ends = []
    for load in loads:
        while free < load.gpus:
            now, given_back = heapq.heappop(running)
            free += given_back
        free -= load.gpus
        end = now + start_s + sum(load.seconds.values())
        heapq.heappush(running, (end, load.gpus))
        ends.append(end)
    return ends


def start_up(taken: Mapping[str, float], runs: Sequence[Measurement], *, prefix: str, otherwise: float) -> float:
    """Return the seconds that a load takes beside what it measures: the median over earlier ones, or ``otherwise``
    where there is none.

    ``taken`` has the seconds of each load by name, ``runs`` what was measured; only names with ``prefix`` count.
    """
    beside = []
    for name, seconds in taken.items():
        if not name.startswith(prefix):
            continue
        own = [spent for run in runs if run.run_id.startswith(f"{name}-") and (spent := spent_s(run, name))]
        if own:
            beside.append(max(seconds - sum(own), 0.0))
    return float(np.median(beside)) if beside else otherwise


def spent_s(run: Measurement, load: str) -> float:
    """Return the seconds that were spent on a run of a load; 0 if it is none of its, or nothing was timed."""
    if not run.e2e_ms:
        return 0.0
    if run.regime == "static":
        named = run.run_id.startswith(f"{load}-b")
        shape = (run.batch, run.input_len, run.output_len)
        return measuring_s(shape, run.prefill_ms, run.e2e_ms, run.repeats) if named and run.prefill_ms else 0.0
    seconds = json.loads(run.fingerprint or "{}").get("seconds", 0.0)
    return float(seconds) + run.e2e_ms / 1e3


def plan_of(
    loads: Sequence[Candidate], model: Model, cluster: Cluster, *, role: str, source: str, label: str, start_s: float
) -> dict[str, Any]:
    """Write a plan for ``probes.benchmark_plan.read_plan``, with the loads in this order."""
    first = loads[0].deployment if loads else Deployment()
    knobs = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization")
    shared = ("engine", "dtype", *knobs, "compiled")
    entries = []
    for load in loads:
        measuring = sum(load.seconds.values())
        offers = [written(piece) for piece in load.seconds if isinstance(piece, TrafficProfile)]
        entries.append(
            {
                "model": model.name,
                "role": role,
                "deployment": {"tp": load.deployment.tp, "pp": load.deployment.pp},
                "shapes": [list(piece) for piece in load.seconds if not isinstance(piece, TrafficProfile)],
                "measure_s": round(SLACK * measuring + SLACK_S, 1),
                "expected_s": round(start_s + measuring, 1),
            }
            | ({"label": label} if label else {})
            | ({"offers": offers} if offers else {})
        )
    return {
        "prefix": prefix_of(cluster, first.engine),
        "source": source,
        "gpu": cluster.gpu.name,
        "interconnect": LINKS[cluster.gpu.topology] if cluster.num_gpus > 1 else "",
        "repeats": REPEATS,
        "point_s": POINT_S,
        "deployment": {name: getattr(first, name) for name in shared},
        "loads": entries,
    }


def prefix_of(cluster: Cluster, engine: str) -> str:
    """Return what the names of all loads of an engine on a kind of GPU begin with."""
    plain = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in cluster.gpu.name.casefold())
    return f"{plain}-{engine}"
