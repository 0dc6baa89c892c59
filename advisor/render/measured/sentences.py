"""What measured runs say, in sentences with their numbers; nothing is said that the runs do not hold."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from advisor.render.measured.charts import cache_full, shown
from advisor.render.numbers import share, short
from advisor.render.vocabulary import TPOT
from catalog.run_quantities import decode_tok_s, gib_sent, joules_per_token, tok_s, tok_s_per_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from advisor.prediction.run_facts import RunFacts
    from advisor.render.measured.series import Series, SeriesCase
    from catalog.schema import Measurement

LEVEL_RATIO = 1.01
"""Within this factor two throughputs are level: nine in ten of the runs that ship repeat to 1% (catalog/data/runs)."""

TURNED = 0.5
"""An added sequence brings less than this share of what the first ones brought: the GPU no longer has time to spare."""

QUANTITIES = {
    "output_tok_s": "throughput",
    "prefill_ms": "prefill",
    "tpot_ms": TPOT,
    "peak_memory_gib": "peak memory",
    "kv_capacity_tokens": "KV cache capacity",
    "comm_bytes": "communication bytes",
    "energy_j": "energy",
    "utilisation": "utilisation",
    "top1_agreement": "agreement with a reference",
}
"""What a run can have measured, in words."""


def sentences(case: SeriesCase, facts: Mapping[Measurement, RunFacts]) -> list[str]:
    """Say everything that the runs of one model and one length of requests say, most asked-for first."""
    texts = [best_layout(case), *split_ratios(case), turn(case), memory_end(case), *communication(case, facts)]
    return [text for text in (*texts, energy(case), *settings(case), agreement(case)) if text]


def best_layout(case: SeriesCase) -> str:
    """Say which parallelism has the most output per GPU at each batch; "" where no batch was measured with two."""
    by_batch = _by_batch(case, tok_s_per_gpu)
    every = {label for _, values in by_batch for label in values}
    winners = [
        (batch, _leaders(values) + _of(values, every), max(values.values()))
        for batch, values in by_batch
        if len(values) > 1
    ]
    if not winners:
        return ""
    parts = []
    for names, run in groupby(winners, key=lambda winner: winner[1]):
        members = list(run)
        values = _span([short(value) for _, _, value in members])
        parts.append(f"{names} at batch {_span([str(batch) for batch, _, _ in members])} ({values})")
    return f"Most output tokens/s per GPU: {', '.join(parts)}."


def split_ratios(case: SeriesCase) -> list[str]:
    """Compare tensor parallel against as many pipeline stages, a sentence for each number of GPUs."""
    texts = []
    for gpus in sorted({series.layout.gpus for series in case.plain}):
        ratios = split_ratio(case, gpus)
        if gpus > 1 and ratios:
            (batch, first), *rest = ratios
            said = "".join(f", {short(ratio)} times at {batch}" for batch, ratio in rest)
            texts.append(
                f"On {gpus} GPUs TP{gpus} gives {short(first)} times the output tokens/s of PP{gpus} (layers split) at "
                f"batch {batch}{said}."
            )
    return texts


def split_ratio(case: SeriesCase, gpus: int) -> list[tuple[int, float]]:
    """Return (batch, throughput of TP over that of PP) where both were measured on so many GPUs."""
    tensor, split = case.of(tp=gpus), case.of(pp=gpus)
    if tensor is None or split is None:
        return []
    ours, theirs = _points(tensor, tok_s), _points(split, tok_s)
    return [(batch, ours[batch] / theirs[batch]) for batch in ours if batch in theirs]


def turn(case: SeriesCase) -> str:
    """Say between which batches an added sequence begins to bring little: decode is bound by more than reading weights."""
    parts = []
    for series in shown(case):
        values = list(_points(series, decode_tok_s).items())
        if len(values) < 3:
            continue
        first = values[0][1] / values[0][0]
        steep = [(low[0], high[0], (high[1] - low[1]) / (high[0] - low[0])) for low, high in pairwise(values)]
        past = next(((low, high) for low, high, gain in steep if gain < TURNED * first), None)
        where = f"between batch {past[0]} and {past[1]}" if past else f"not up to batch {values[-1][0]}"
        parts.append(f"{series.label} {where}")
    if not parts:
        return ""
    return (
        f"In decode an added sequence brings less than {share(TURNED)} of what the first brought (weights are no longer "
        f"most of what a step waits for): {', '.join(parts)}."
    )


def memory_end(case: SeriesCase) -> str:
    """Say at which batch memory ended, as measured and as the engine's cache says."""
    parts = []
    for series in shown(case):
        said = []
        if series.failed:
            least = min(run.batch for run in series.failed)
            ran = max((run.batch for run in series.runs if run.batch < least), default=None)
            said.append(f"ran out at batch {least}" + (f" ({ran} ran)" if ran else ", the smallest tried"))
        full = cache_full(series)
        if full:
            said.append(f"cache full above {full:.0f} sequences")
        if said:
            parts.append(f"{series.label} {' and '.join(said)}")
    return f"Memory: {'; '.join(parts)}." if parts else ""


def communication(case: SeriesCase, facts: Mapping[Measurement, RunFacts]) -> list[str]:
    """Say how the bytes that a GPU sends grow with the batch, and the least share of the time they can have taken."""
    texts = []
    for series in shown(case):
        sent = list(_points(series, gib_sent).items())
        if len(sent) < 2 or not sent[0][1]:
            continue
        (low, least), (high, most) = sent[0], sent[-1]
        text = f"Communication of {series.label}: a GPU sends {_bytes(least)} a run at batch {low}, {_bytes(most)} at {high}"
        shares = _points(series, lambda run: facts[run].link_share(run) if run in facts else None)
        if low in shares and high in shares:
            text += f", at its links' peak bandwidth {shares[low]:.2%} and {shares[high]:.2%} of the time"
        texts.append(f"{text} ({short(most / least)} times the bytes for {short(high / low)} times the sequences).")
    return texts


def energy(case: SeriesCase) -> str:
    """Say the least energy a token took, and with what."""
    values = [
        (joules, batch, series.label)
        for series in shown(case)
        for batch, joules in _points(series, joules_per_token).items()
    ]
    if len(values) < 2:
        return ""
    (least, batch, label), (most, other, worst) = min(values), max(values)
    return f"Energy per output token: from {short(most)} J ({worst}, batch {other}) to {short(least)} J ({label}, batch {batch})."


def settings(case: SeriesCase) -> list[str]:
    """Say what other settings (no kernel fusion, say) did to the throughput of a parallelism."""
    plain = {series.layout: _points(series, tok_s) for series in case.plain}
    texts = []
    for series in case.series:
        usual = plain.get(series.layout, {})
        ratios = [(batch, value / usual[batch]) for batch, value in _points(series, tok_s).items() if batch in usual]
        if series.settings and ratios:
            said = ", ".join(f"{short(ratio)} times at batch {batch}" for batch, ratio in ratios)
            texts.append(f"{series.layout} with {series.settings}: output tokens/s {said}, of those without.")
    return texts


def agreement(case: SeriesCase) -> str:
    """Say how often outputs agreed with the reference at the worst."""
    compared = [run for series in case.series for run in series.runs if run.top1_agreement is not None]
    if not compared:
        return ""
    worst = min(compared, key=lambda run: run.top1_agreement or 0.0)
    label = next(series.label for series in case.series if worst in series.runs)
    return (
        f"Most likely tokens agree with the reference's in {share(worst.top1_agreement or 0.0)} at the worst "
        f"({label}, batch {worst.batch}; {len(compared)} runs compared)."
    )


def missing(runs: Sequence[Measurement]) -> list[str]:
    """Name what runs have not measured; where some have, in how many of them it is missing."""
    # some were only tried for their memory
    ran = [run for run in runs if not run.oom and (run.e2e_ms or run.output_tok_s)]
    texts = []
    for name, words in QUANTITIES.items():
        members = [run for run in ran if run.deployment.num_gpus > 1] if name == "comm_bytes" else ran
        without = sum(getattr(run, name) is None for run in members)
        if members and without == len(members):
            texts.append(words)
        elif without:
            texts.append(f"{words} in {without} of {len(members)} runs")
    return texts


def _by_batch(case: SeriesCase, value: Callable[[Measurement], float | None]) -> list[tuple[int, dict[str, float]]]:
    """Return for each batch the value of every series shown that has it."""
    points = {series.label: _points(series, value) for series in shown(case)}
    batches = sorted({batch for values in points.values() for batch in values})
    return [(batch, {label: at[batch] for label, at in points.items() if batch in at}) for batch in batches]


def _points(series: Series, value: Callable[[Measurement], float | None]) -> dict[int, float]:
    batches, values = series.points(value)
    return {int(batch): float(number) for batch, number in zip(batches, values, strict=True)}


def _leaders(values: Mapping[str, float]) -> str:
    """Return the best, and who is level with it."""
    best = max(values.values())
    return " and ".join(label for label, value in values.items() if value * LEVEL_RATIO >= best)


def _of(values: Mapping[str, float], every: set[str]) -> str:
    """Say between which there was a choice, where not all were measured."""
    return "" if values.keys() == every else f" (of {', '.join(values)})"


def _span(texts: Sequence[str]) -> str:
    """Return the first and the last of what is in order."""
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _bytes(gib: float) -> str:
    return f"{short(gib)} GiB" if gib >= 1 else f"{short(gib * 1024)} MiB"


def listed(texts: Iterable[str]) -> str:
    """Return sentences as a list in Markdown."""
    return "".join(f"- {text}\n" for text in texts)
