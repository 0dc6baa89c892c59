"""What speculation and LoRA adapters do to decoding and to traffic, as lines of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.numbers import duration, short
from advisor.render.vocabulary import TPOT, fleet_name
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import FleetOption
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.speculation import Speculation
    from advisor.simulator.traffic_speculation import TrafficSpeculation
    from catalog.features import Adapters


def decode_speculation_lines(answer: Speculation) -> Sequence[str]:
    """Say what speculation does to decoding at one batch, and up to which it gains."""
    best, (low, high) = answer.best, answer.best.speedup_ends
    by = f"{answer.method} {answer.drafter}" if answer.drafter else answer.method
    verdict = "" if answer.pays else "does not pay: "
    gain = (
        f"{by}, {best.draft_len} drafted a step: {verdict}decoding {best.speedup:.2f} ({low:.2f}-{high:.2f}) times as fast, "
        f"a step {short(answer.plain_ms)} to {short(best.step_ms)} ms for {best.tokens_per_step:.2f} tokens"
    )
    least, most = answer.acceptance_ends
    rates = (
        f"a drafted token is accepted with {answer.acceptance:.2f} ({least:.2f}-{most:.2f}): {answer.acceptance_source}"
    )

    def size(batch: int | None) -> str:
        return "none" if batch is None else f"{batch}"

    fewest, largest = map(size, answer.most_batch_ends)
    ends = "" if fewest == largest else f" ({fewest} to {largest})"
    bound = ", all that it runs at once," if answer.most_batch == answer.largest_batch else ""
    gains = f"gains up to a batch of {size(answer.most_batch)}{ends}{bound} per replica"
    return [gain, rates, f"{gains}; no run with speculation was fitted"]


def taken_line(best: Estimate) -> str:
    """Say whether the times of a recommendation are with drafts, and why not."""
    if best.deployment.drafting is not None:
        return "the times are with it"
    assert best.speculation is not None
    if not best.speculation.pays:
        return "the times are without: drafts do not pay at this batch"
    return (
        "the times are without: by the estimate drafts gain, but with as few tokens accepted as may be they lose, and the worse end of "
        "the intervals decides; --acceptance states a rate that is known"
    )


def speculation_lines(answer: TrafficSpeculation) -> Sequence[str]:
    """Say what it does beside the same deployment without, how much is taken to be accepted, and up to which rate it gains."""
    plain, speculated = answer.plain, answer.speculated
    gain = plain["tpot_ms"] / speculated["tpot_ms"] if speculated["tpot_ms"] > 0 else 1.0
    why = ", the number that is fastest for these requests" if answer.chosen else ""
    verdict = "" if gain > 1.0 else "does not pay at this load: "
    times = (
        f"{verdict}mean {TPOT} {duration(speculated['tpot_ms'])}, without {duration(plain['tpot_ms'])}; saturated at "
        f"{short(speculated['saturation_s'])} requests/s, without at {short(plain['saturation_s'])}"
    )
    low, high = answer.acceptance_ends
    accepted = (
        f"a drafted token is accepted with {answer.acceptance:.2f} ({low:.2f}-{high:.2f}), {answer.tokens_per_step:.2f} tokens a "
        f"step: {answer.acceptance_source}; no run with speculation was fitted"
    )
    lines = [f"{answer.drafting} a step{why}", times, accepted]
    if answer.pays_to_s is not None:
        bound = ", where one of the two saturates" if answer.pays_to_saturation else ""
        upto = f"up to {short(answer.pays_to_s)} requests/s{bound}" if answer.pays_to_s > 0 else "at no rate"
        lines.append(f"gains {upto}: above, {TPOT} is shorter without" if not bound else f"gains {upto}")
    return lines


def adapter_lines(adapters: Adapters | None, hits: Mapping[str, float]) -> Sequence[str]:
    """Say how often an adapter had a slot, and what loading it takes otherwise."""
    slots = (
        ""
        if adapters is None
        else f"{adapters.number} adapters of rank {adapters.rank}, {counted(adapters.max_loras, 'slot')}: "
    )
    loads = (
        f"{hits['cpu']:.1%} loaded it from CPU memory in {duration(hits['cpu_ms'])}, {hits['disk']:.1%} from disk in "
        f"{duration(hits['disk_ms'])}; no run with adapters was fitted"
    )
    return [f"{slots}{hits['slot']:.1%} of the requests found theirs in a slot", loads]


def drafts_of(option: FleetOption) -> str:
    """Write what a fleet drafts."""
    drafting = option.deployment.drafting
    return "none" if drafting is None else str(drafting)


def plan_speculation_lines(answer: CapacityPlan) -> Sequence[str]:
    """Say what the traffic takes with drafts and without; nothing where none were asked about."""
    with_, without = (
        next((option for option in answer.options if (option.deployment.drafting is not None) == drafts), None)
        for drafts in (True, False)
    )
    if with_ is None:
        return []

    def fleet(option: FleetOption) -> str:
        money = "" if option.usd_per_month is None else f", ${option.usd_per_month:,.0f} a month"
        return f"{counted(option.gpus, 'GPU')} ({fleet_name(option)}{money})"

    rest = "nothing keeps the limits" if without is None else fleet(without)
    return [f"with {with_.deployment.drafting} a step {fleet(with_)}; without {rest}"]
