"""Measured runs arranged for comparison: what was served on what, of which lengths, and one series a parallelism."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.render.numbers import share
from catalog.schema import Deployment
from catalog.wording import short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from catalog.schema import Measurement
    from catalog.units import Array

SETTINGS = (
    "regime",
    "kv_dtype",
    "compiled",
    "offload",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_model_len",
    "gpu_memory_utilization",
)
"""Knobs beside the parallelism. Where runs of one setup differ in them, the rarer values are named in the label."""


@dataclass(frozen=True, slots=True, order=True)
class Setup:
    """What a figure's title says: everything but parallelism, settings, lengths and batch."""

    model: str
    gpu: str
    engine: str
    version: str
    dtype: str

    @property
    def model_name(self) -> str:
        return short_name(self.model)

    @property
    def title(self) -> str:
        return f"{self.model_name} {self.dtype} on {self.gpu}, {self.engine} {self.version}".rstrip()

    @property
    def slug(self) -> str:
        """Return the title as the beginning of a file's name."""
        parts = (self.model_name, self.gpu, self.engine, self.version, self.dtype)
        return "_".join(re.sub(r"[^a-z0-9.+]+", "-", part.casefold()).strip("-.") for part in parts if part)[:120]


@dataclass(frozen=True, slots=True, order=True)
class SeriesLayout:
    """How many GPUs a model was spread over, and how."""

    gpus: int
    pp: int
    tp: int
    dp: int
    ep: int

    @classmethod
    def of(cls, run: Measurement) -> SeriesLayout:
        return cls(gpus=run.deployment.num_gpus, pp=run.pp, tp=run.tp, dp=run.dp, ep=run.ep)

    def __str__(self) -> str:
        """Write the layout as everywhere: "2 x TP2 PP1"."""
        return Deployment(dp=self.dp, tp=self.tp, pp=self.pp, ep=self.ep).layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Runs that differ in their batch alone, by batch; repeated measurements of one batch count as their median."""

    layout: SeriesLayout
    settings: str
    """In which settings it differs from most runs of its setup; "" where in none."""
    runs: tuple[Measurement, ...]
    """Those that did not run out of memory, and have a batch."""
    failed: tuple[Measurement, ...]
    """Those that ran out of memory."""

    @property
    def label(self) -> str:
        return f"{self.layout} {self.settings}".rstrip()

    def points(self, value: Callable[[Measurement], float | None]) -> tuple[Array, Array]:
        """Return batches that have the value, rising, and its median at each, shape (n,)."""
        by_batch: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            number = value(run)
            if number is not None:
                by_batch[run.batch].append(number)
        batches = sorted(by_batch)
        return np.array(batches, dtype=float), np.array([np.median(by_batch[batch]) for batch in batches], dtype=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesCase:
    """All series of one setup with prompts and answers of one length."""

    setup: Setup
    input_len: int
    output_len: int
    series: tuple[Series, ...]

    @property
    def lengths(self) -> str:
        return f"{self.input_len} in / {self.output_len} out"

    @property
    def plain(self) -> tuple[Series, ...]:
        """Return one series a parallelism: those in the settings that most runs of the setup have."""
        return tuple(series for series in self.series if not series.settings)

    def of(self, *, tp: int = 1, pp: int = 1) -> Series | None:
        """Return the plain series of one replica with these degrees, experts sliced like every other matrix."""
        wanted = SeriesLayout(gpus=tp * pp, pp=pp, tp=tp, dp=1, ep=1)
        return next((series for series in self.plain if series.layout == wanted), None)


def setup_of(run: Measurement) -> Setup:
    return Setup(run.model, run.gpu, run.engine, run.engine_version, run.dtype)


def cases(runs: Iterable[Measurement]) -> tuple[SeriesCase, ...]:
    """Return runs with a batch, arranged; setups by name, then lengths. Saturated runs state no batch and are left out."""
    by_setup: dict[Setup, list[Measurement]] = defaultdict(list)
    for run in runs:
        if run.batch > 0:
            by_setup[setup_of(run)].append(run)
    return tuple(case for setup in sorted(by_setup) for case in _cases(setup, by_setup[setup]))


def _cases(setup: Setup, runs: Sequence[Measurement]) -> list[SeriesCase]:
    texts = settings_texts(runs)
    by_lengths: dict[tuple[int, int], dict[tuple[SeriesLayout, str], list[Measurement]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run, settings in zip(runs, texts, strict=True):
        by_lengths[run.input_len, run.output_len][SeriesLayout.of(run), settings].append(run)
    return [
        SeriesCase(
            setup=setup,
            input_len=lengths[0],
            output_len=lengths[1],
            series=tuple(_series(*key, together[key]) for key in sorted(together)),
        )
        for lengths, together in sorted(by_lengths.items())
    ]


def _series(layout: SeriesLayout, settings: str, runs: Iterable[Measurement]) -> Series:
    ordered = sorted(runs, key=lambda run: run.batch)
    return Series(
        layout=layout,
        settings=settings,
        runs=tuple(run for run in ordered if not run.oom),
        failed=tuple(run for run in ordered if run.oom),
    )


def settings_texts(runs: Sequence[Measurement]) -> list[str]:
    """Say for each run the settings in which it differs from most of ``runs``, in words; "" where in none."""
    usual = (
        {name: Counter(getattr(run, name) for run in runs).most_common(1)[0][0] for name in SETTINGS} if runs else {}
    )
    return [", ".join(_words(run, name) for name in SETTINGS if getattr(run, name) != usual[name]) for run in runs]


def _words(run: Measurement, name: str) -> str:
    value = getattr(run, name)
    if value is None:
        return f"{name} not stated"
    return {
        "regime": {"static": "static batches", "steady": "in a steady state", "open": "under open arrivals"}[
            run.regime
        ],
        "kv_dtype": f"{value} KV",
        "compiled": "compiled" if value else "eager",
        "offload": f"{share(run.offload)} offloaded",
        "max_num_batched_tokens": f"{value}-token steps",
        "max_num_seqs": f"at most {value} sequences",
        "max_model_len": f"up to {value} tokens",
        "gpu_memory_utilization": f"{run.gpu_memory_utilization or 0:.0%} of memory",
    }[name]
