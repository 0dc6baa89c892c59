"""Replicas of one deployment: what the scheduler's loop needs to know of them, and what is believed of their times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advisor.calibration.support import extrapolation_notes, unmeasured_variance, widened
from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.drafting import DraftSteps
from advisor.perf_model.parameters import IDEAL
from advisor.prediction.engine_start import context_note, safe_context
from advisor.simulator.adapter_terms import AdapterTerms
from advisor.simulator.arrivals import MOST_REQUESTS
from advisor.simulator.cache_tiers import UNUSED, tier_notes, tiers_of
from advisor.simulator.conversations import cache_warnings
from advisor.simulator.draft_table import Speculator
from advisor.simulator.parameter_draws import draws_of, scale_of
from advisor.simulator.routers import FCFS
from advisor.simulator.scheduler import FRONT_END_MS, Scheduler, longest, saturation_rate, serve, serve_pieces
from advisor.simulator.serving import SchedulerKnobs, check_policy_of
from advisor.simulator.step_ends import StepSpread
from advisor.simulator.step_table import go_in_step, tabulate
from catalog.engines import resolve
from catalog.errors import InputError, NoRoomError, Note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from advisor.calibration.parameter_posterior import ParameterPosterior, Provenance
    from advisor.calibration.surrogate import IntervalScale
    from advisor.perf_model.parameters import Parameters
    from advisor.prediction.evidence import Evidence
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.prompt_sharing import PromptSharing
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.routers import Router, SchedulingPolicy
    from advisor.simulator.step_table import StepTimes
    from catalog.schema import Cluster, Deployment, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatedServer:
    """Replicas of one resolved deployment."""

    deployment: Deployment
    cost_model: CostModel
    scheduler: Scheduler
    marginal: ParameterPosterior
    knowledge: Evidence
    unmeasured_variance: float = 0.0
    """Of the logarithm of all times, for kernels and ranks of which no run is known."""
    speculator: Speculator | None = None
    """Of a deployment that drafts."""
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(
        cls, model: Model, cluster: Cluster, deployment: Deployment, knowledge: Evidence, serving: Mapping[str, Any]
    ) -> AggregatedServer:
        """Set up a deployment, its open knobs chosen as the engine would; ``serving``: arguments of ``scheduler_of``, and
        ``acceptance`` of drafted tokens (see ``Speculator.of``).

        Raises:
            InputError: the deployment cannot be, or does not fit.

        """
        resolved = resolve(deployment, model, cluster)
        chosen = resolved.value
        # The loop has slots and kernels of adapters itself, those of the ones that run.
        layout = DeploymentArrays.of([replace(chosen, adapters=None)], model, cluster.gpu)
        known = knowledge.marginal(chosen.engine, cluster.gpu)
        cost_model = CostModel.of(model, cluster, layout, known.parameters, chosen.engine)
        held = int(cost_model.memory.kv_capacity_tokens[0])
        context: tuple[Note, ...] = ()
        if deployment.max_model_len is None and cost_model.memory.fits[0]:
            context = (context_note(model, safe_context(model, held, 1), held),)
        (news,) = extrapolation_notes(known, chosen.engine, model, layout)
        settings = dict(serving)
        speculator = _speculator(cost_model, chosen, settings.pop("acceptance", None))
        return cls(
            deployment=chosen,
            cost_model=cost_model,
            scheduler=scheduler_of(cost_model, chosen, speculator=speculator, **settings),
            speculator=speculator,
            marginal=widened(known, (model, layout)),
            knowledge=knowledge,
            unmeasured_variance=float(unmeasured_variance(known, model, layout)[0]),
            notes=(*resolved.notes, *context, *news),
        )

    @property
    def longest(self) -> int:
        """Return the tokens of the longest request that is served."""
        limit = self.deployment.max_model_len or self.cost_model.model.max_position_embeddings
        return min(limit, longest(self.scheduler))

    @property
    def provenance(self) -> Provenance:
        return self.marginal.provenance

    @property
    def scale(self) -> IntervalScale:
        return scale_of(self.knowledge, self.marginal, self.deployment, self.model)

    @property
    def model(self) -> Model:
        return self.cost_model.model

    @property
    def kv_bytes(self) -> float:
        """Return bytes of the cache for a token, over all GPUs of a replica."""
        return float(self.cost_model.memory.kv_bytes_per_token[0]) * self.deployment.tp * self.deployment.pp

    def beliefs(self, draws: int) -> list[tuple[Parameters, float]]:
        """Return the parameters themselves and ``draws`` draws of them, each with a factor of all times."""
        return [
            (self.marginal.parameters, 1.0),
            *draws_of(
                self.marginal,
                self.knowledge,
                self.cost_model,
                self.deployment,
                draws,
                variance=self.unmeasured_variance,
            ),
        ]

    def times(self, belief: tuple[Parameters, float], context: float | None = None) -> StepTimes:
        parameters, factor = belief
        cost_model = replace(self.cost_model, parameters=parameters)
        return times_of(cost_model, self.scheduler, context, self.speculator).scaled(factor)

    def believed_times(self) -> StepTimes:
        """Return step times by the parameters themselves."""
        return self.times(self.beliefs(0)[0])

    def cache_notes(self, sharing: PromptSharing | None) -> tuple[Note, ...]:
        """Say how the cache of prompts that share something differs from the engine's, and what the tiers below it hold and take."""
        if sharing is not None:
            return (*cache_warnings(self.model), *self.tier_notes)
        return (UNUSED,) if self.scheduler.tiers else ()

    @property
    def tier_notes(self) -> tuple[Note, ...]:
        """Say what the tiers below the GPUs' cache hold, and what loading from them takes beside computing."""
        from advisor.simulator.block_cache import BLOCK

        if not self.scheduler.tiers:
            return ()
        times, tokens = self.believed_times(), self.scheduler.max_num_batched_tokens
        return tier_notes(
            self.scheduler.tiers, BLOCK, 1000 / tokens * times.prompt_ms(tokens), self.scheduler.kv_blocks
        )

    def spread(self, draws: int, traffic: Arrivals) -> StepSpread:
        """Measure how far step times may lie from what is believed, at sequences as long as those of the traffic."""
        prompt, output = float(traffic.input_len.mean()), float(traffic.output_len.mean())
        context = prompt + output / 2.0
        drawn = [self.times(belief, context) for belief in self.beliefs(draws)]
        return StepSpread.of(drawn[0], drawn[1:], context, prompt)

    def ended(self, times: StepTimes, spread: StepSpread, quantile: float) -> StepTimes:
        """Return step times so many standard deviations longer, or shorter as far as physics allows."""
        share = 1.0
        if self.speculator is not None and times.drafts is not None:
            level = math.copysign(self.scale.level(abs(quantile)), quantile)
            rates, share = self.speculator.ended(level, quantile * float(spread.by_sequences.mean()))
            times = replace(times, drafts=times.drafts._replace(rates=rates))
        if quantile >= 0:
            return spread.end(times, share * quantile)
        ideal = replace(self.cost_model, parameters=IDEAL, ideal=True)
        return spread.end(times, share * quantile, times_of(ideal, self.scheduler, speculator=self.speculator))

    @property
    def router(self) -> Router:
        return self.scheduler.router

    @property
    def gpus(self) -> int:
        return self.deployment.num_gpus

    @property
    def gpu_counts(self) -> dict[str, int]:
        """Return GPUs by the name of their kind."""
        return {self.cost_model.cluster.gpu.name: self.gpus}

    def on_nodes(self, nodes: int) -> AggregatedServer:
        """Return the same on so many nodes of its cluster's kind."""
        cluster = replace(self.cost_model.cluster, nodes=nodes)
        return replace(self, cost_model=replace(self.cost_model, cluster=cluster))

    def with_budget(self, tokens: int) -> AggregatedServer:
        """Return the same with another token budget of a step, which leaves the KV cache other room.

        Raises:
            InputError: the engine does not start with it, or nothing fits then.

        """
        old, model = self.cost_model, self.cost_model.model
        seqs = min(self.scheduler.max_num_seqs, tokens)  # an engine takes a token a step for each
        stated = replace(self.deployment, max_num_batched_tokens=tokens, max_num_seqs=seqs)
        chosen = resolve(stated, model, old.cluster).value
        layout = DeploymentArrays.of([replace(chosen, adapters=None)], model, old.cluster.gpu)
        cost_model = CostModel.of(model, old.cluster, layout, old.parameters, old.engine)
        if not cost_model.memory.fits[0]:
            raise InputError(f"{model.name} does not fit with {tokens} tokens a step")
        room = float(cost_model.memory.kv_capacity_tokens[0] / old.memory.kv_capacity_tokens[0])
        blocks = max(int(self.scheduler.kv_blocks * room), 1)
        scheduler = replace(self.scheduler, max_num_batched_tokens=tokens, max_num_seqs=seqs, kv_blocks=blocks)
        usual = self.deployment.max_num_batched_tokens
        text = f"max_num_batched_tokens {tokens} in place of {usual}: a limit, and not saturation, decides how many replicas there are"
        notes = (*(note for note in self.notes if "max_num_batched_tokens" not in note.text), Note(text))
        return replace(self, deployment=chosen, cost_model=cost_model, scheduler=scheduler, notes=notes)

    def multiplied(self, times: int) -> AggregatedServer:
        """Return ``times`` times as many replicas."""
        deployment = replace(self.deployment, dp=self.deployment.dp * times)
        return replace(self, deployment=deployment, scheduler=self.scheduler.multiplied(times))

    def multiple(self, times: int) -> tuple[Deployment, Deployment | None]:
        """Return the deployment of ``times`` times as many replicas, and what computes the prompts if that is another."""
        return self.multiplied(times).deployment, None

    def served(self, traffic: Arrivals, times: StepTimes, multiple: int = 1) -> RequestResults:
        """Serve the traffic on ``multiple`` times as many replicas."""
        return serve(traffic, times, self.scheduler.multiplied(multiple))

    def served_pieces(
        self, pieces: Iterable[Arrivals], times: StepTimes, duration_s: float
    ) -> Iterator[RequestResults]:
        """Serve a stream, in parts (see ``advisor.simulator.scheduler.serve_pieces``)."""
        return serve_pieces(pieces, times, self.scheduler, duration_s=duration_s, most_open=MOST_REQUESTS)

    def saturation(self, traffic: Arrivals, times: StepTimes, hit_rate: float | None = None) -> float:
        """Return requests a second that are completed at most, see ``advisor.simulator.scheduler.saturation_rate``."""
        return saturation_rate(traffic, times, self.scheduler, hit_rate)

    def slots_for_all(self) -> AggregatedServer:
        """Return the same with a slot for every adapter, as if slots took no memory."""
        adapters = self.scheduler.adapters
        if adapters is None:
            return self
        slots = len(adapters.popularity)
        ample = replace(adapters, slots=slots, cpu_slots=max(slots, adapters.cpu_slots))
        return replace(self, scheduler=replace(self.scheduler, adapters=ample))


def scheduler_of(
    cost_model: CostModel,
    deployment: Deployment,
    *,
    router: Router = "round_robin",
    scheduling_policy: SchedulingPolicy = FCFS,
    prefix_hit_rate: float = 0.0,
    prefix_caching: bool = True,
    front_end_ms: float = FRONT_END_MS,
    knobs: SchedulerKnobs | None = None,
    speculator: Speculator | None = None,
) -> Scheduler:
    """Return what the loop needs to know of a resolved deployment.

    Raises:
        InputError: the weights do not fit, or the engine does not batch continuously.

    """
    from advisor.simulator.block_cache import BLOCK

    room, gpu = cost_model.memory, cost_model.cluster.gpu
    if not cost_model.timing.cuts_prompts:
        raise InputError(
            "engine torch serves whole batches in turn and has no scheduler to simulate; use vllm or estimate"
        )
    if not room.fits[0]:
        raise InputError(
            f"{cost_model.model.name} does not fit: weights, activations and engine leave no KV cache on {gpu.name} with "
            f"TP{deployment.tp} PP{deployment.pp}; use more GPUs or a smaller dtype"
        )
    block_bytes = BLOCK * float(room.kv_bytes_per_token[0]) * deployment.tp * deployment.pp
    chosen = (knobs or SchedulerKnobs()).chosen(cost_model.timing)
    check_policy_of(scheduling_policy, deployment.engine, chosen)
    tokens = float(room.kv_capacity_tokens[0]) * (1.0 if speculator is None else speculator.cache_left)
    adapters = _adapters(cost_model, deployment)
    if adapters is not None:
        tokens *= max(1.0 - adapters.gib / float(room.kv_gib[0]), 0.0)
        if tokens <= BLOCK:
            raise NoRoomError(
                f"{cost_model.model.name} does not fit with slots for adapters of {adapters.gib:.3g} GiB: no KV cache is left; state "
                "fewer with max_loras, or use more GPUs"
            )
    if speculator is not None and tokens <= BLOCK + speculator.slots:
        raise NoRoomError(
            f"{cost_model.model.name} does not fit with what drafts for it ({speculator.drafting}): no KV cache is left; leave it out, "
            "or use more GPUs"
        )
    assert deployment.max_num_seqs
    assert deployment.max_num_batched_tokens
    return Scheduler(
        replicas=deployment.dp,
        max_num_seqs=deployment.max_num_seqs,
        max_num_batched_tokens=deployment.max_num_batched_tokens,
        stages=deployment.pp,
        ranks=deployment.ranks if go_in_step(cost_model) else 1,
        kv_blocks=max(int(tokens) // BLOCK, 1),
        adapters=adapters,
        draft_slots=0 if speculator is None else speculator.slots,
        window=cost_model.model.sliding_window,
        router=router,
        scheduling_policy=scheduling_policy,
        prefix_hit_rate=prefix_hit_rate,
        prefix_caching=prefix_caching,
        tiers=tiers_of(deployment, cost_model.cluster, block_bytes=block_bytes),
        front_end_ms=front_end_ms,
        mixes_prompts=cost_model.timing.mixes_prompts,
        reserves_outputs=cost_model.timing.reserves_outputs,
        **chosen,
    )


def _adapters(cost_model: CostModel, deployment: Deployment) -> AdapterTerms | None:
    """Return what adapters take; None without them.

    Raises:
        InputError: the engine's slots are not simulated.

    """
    if deployment.adapters is None:
        return None
    if deployment.engine != "vllm":
        raise InputError(
            f"adapters are simulated as vllm keeps them, not {deployment.engine}; use vllm or leave them out"
        )
    return AdapterTerms.of(deployment.adapters, cost_model, deployment)


def _speculator(
    cost_model: CostModel, deployment: Deployment, acceptance: float | Sequence[float] | None
) -> Speculator | None:
    """Return what drafts for a resolved deployment; None where nothing does."""
    drafting = deployment.drafting
    if drafting is None:
        return None
    steps = DraftSteps.of(cost_model, deployment, drafting.method, drafting.model or None)
    return Speculator.of(drafting, steps, acceptance)


def times_of(
    cost_model: CostModel, scheduler: Scheduler, context: float | None = None, speculator: Speculator | None = None
) -> StepTimes:
    """Tabulate every step that the scheduler can make up; with ``context`` as ``tabulate`` does."""
    return tabulate(
        cost_model,
        budget=scheduler.max_num_batched_tokens,
        cap=scheduler.max_num_seqs,
        context=context,
        speculator=None if speculator is None else speculator.believing(cost_model),
    )


def counted_out(traffic: Arrivals, engine: AggregatedServer) -> Arrivals:
    """Return a loop that ends with its last request, with the seconds that takes as believed."""
    served = engine.served(traffic, engine.believed_times())
    return replace(traffic, duration_s=served.end_s)
