"""What the page Capacity asks: kinds of GPUs, traffic or a trace of it, limits, how sure they are to hold, and prices."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor import Peak, trace_peak
from advisor import read_prices as stated_prices
from advisor.render.numbers import short
from advisor.render.question_command import question_command
from advisor.render.vocabulary import PLAN_GOALS
from app import details, inputs
from app.classes_table import TABLES, all_limited, classes, limited
from app.evidence_runs import left_out, session_runs
from app.frame import OWN_DEFAULTS
from app.plain_text import plain
from app.planning import AT_ONCE
from app.uploads import file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from advisor import Arrivals, ExtraRuns

RATE, CLASSES, TRACE = "A rate", "Classes", "A trace"
MOST_MB = 20
SURE = {0.5: "by the estimate", 0.75: "with 75%", 0.9: "with 90%", 0.95: "with 95%", 0.99: "with 99%"}
USUAL = 0.9
"""By the estimate alone the cheapest fleet runs close to its saturation."""
MEAN = 0.0
_COMMON: Mapping[str, object] = {
    "traffic": RATE,
    "e2e": None,
    AT_ONCE: True,
    **inputs.NO_KNOBS,
    **details.NO_PROMPTS,
    **details.NO_SERVING,
    **details.NO_FLEET,
}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "Chat, 8B": {
        **_COMMON,
        "model": "meta-llama/Meta-Llama-3.1-8B",
        "kinds": ["H100-SXM", "H200-SXM"],
        "rate": 20.0,
        "input_len": 1024,
        "output_len": 256,
        "ttft": 500.0,
        "tpot": 40.0,
        "headroom": 0,
        "spares": 0,
    },
    "Assistant, 70B, with spares": {
        **_COMMON,
        "model": "meta-llama/Meta-Llama-3.1-70B",
        "kinds": ["H100-SXM", "H200-SXM"],
        "rate": 4.0,
        "input_len": 2048,
        "output_len": 512,
        "ttft": 1000.0,
        "tpot": 50.0,
        "headroom": 20,
        "spares": 1,
    },
    "Chat and summaries, by priority": {
        **_COMMON,
        "traffic": CLASSES,
        "queue": "priority",
        TABLES.anew: True,
        "model": "meta-llama/Meta-Llama-3.1-8B",
        "kinds": ["H100-SXM", "H200-SXM"],
        "rate": 12.0,
        "input_len": 1024,
        "output_len": 256,
        "ttft": None,
        "tpot": None,
        "headroom": 0,
        "spares": 0,
    },
    "Too few GPUs": {
        **_COMMON,
        "model": "meta-llama/Meta-Llama-3.1-8B",
        "kinds": ["2xH100-SXM"],
        "rate": 100.0,
        "input_len": 1024,
        "output_len": 256,
        "ttft": 500.0,
        "tpot": 40.0,
        "headroom": 0,
        "spares": 0,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """An uploaded trace; two of the same bytes are equal."""

    name: str
    digest: str
    traffic: Arrivals = field(compare=False, repr=False)
    peak: Peak


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityInputs:
    """Everything that a plan depends on."""

    model: advisor.Model
    gpus: tuple[str, ...]
    workload: advisor.Workload
    slo: advisor.Slo
    objective: str
    confidence: float
    headroom: float
    spares: int
    engine: str
    knobs: inputs.Knobs
    prices: str
    spread: float
    burstiness: float
    trace: Trace | None
    classes: Mapping[str, Any] | None = None
    """As ``advisor.plan`` takes them; None: all requests are alike."""
    prompts: details.Prompts
    served: details.EngineDetails
    fleet: details.Fleet
    runs: ExtraRuns | None

    @property
    def limited(self) -> bool:
        """Return whether there is a limit to plan for."""
        return bool(self.slo.limits) or (self.classes is not None and limited(self.classes))

    def keywords(self) -> dict[str, Any]:
        """Return the question as keywords of ``advisor.plan``.

        Raises:
            InputError: a price, a cache tier or an adapter that cannot be.

        """
        deployment = advisor.Deployment(
            engine=self.engine, **asdict(self.knobs), **self.served.knobs, adapters=self.fleet.adapters
        )
        return {
            "workload": self.workload,
            "slo": self.slo,
            "objective": self.objective,
            "confidence": self.confidence,
            "headroom": self.headroom,
            "spares": self.spares,
            "deployment": deployment,
            "spread": self.spread or None,
            "burstiness": self.burstiness,
            "price": stated_prices([part for part in self.prices.split(",") if part.strip()]),
            "classes": self.classes,
            "router": self.served.router,
            **asdict(self.prompts),
            **self.served.drafts,
            **self.fleet.keywords,
        }

    @property
    def traffic(self) -> dict[str, Any]:
        """Return what ``advisor.simulate_option`` must be told of the traffic again."""
        return {
            "spread": self.spread,
            "burstiness": self.burstiness,
            "classes": self.classes,
            "shared_prefix": self.prompts.shared_prefix,
            "num_prefixes": self.prompts.num_prefixes,
            "turns": self.prompts.turns,
            "think_time": self.prompts.think_time,
            "workload": None if self.classes is None else self.workload,
            "router": self.served.router,
            "kv_link_gbps": self.fleet.kv_link_gbps,
            "acceptance": self.served.acceptance,
        }

    @property
    def digest(self) -> str:
        """Return some letters that stand for the question in an address, imported runs aside, which no address holds."""
        return hashlib.sha256(repr(replace(self, runs=None)).encode()).hexdigest()[:12]


def question() -> CapacityInputs | None:
    """Return the question as the widgets stand; None while a trace is asked for and there is none."""
    with st.container(border=True):
        inputs.examples(EXAMPLES)
        left, right = st.columns(2)
        with left:
            model = inputs.model()
        with right:
            gpus = inputs.kinds(
                OWN_DEFAULTS["capacity"]["kinds"], why="As many of each as needed; type 8xH100-SXM for at most eight."
            )
        traffic = _traffic()
        left, right = st.columns(2)
        with left:
            limits = inputs.limits()
            with st.container(horizontal=True):
                objective = inputs.choice("Goal", "plan_goal", PLAN_GOALS)
                engine, prices = inputs.engine(), inputs.prices()
        with right:
            percentile, confidence, headroom, spares = _certainty()
        knobs = inputs.knobs()
        traced = st.session_state["traffic"] == TRACE
        prompts = details.Prompts() if traced else details.prompts()
        served, fleet = details.engine(plans=True)
    if traffic is None:
        return None
    if traffic.get("classes") and all_limited(traffic["classes"]):
        limits = {}  # of no request
    return CapacityInputs(
        model=model,
        gpus=tuple(gpus),
        objective=objective,
        confidence=confidence,
        headroom=headroom,
        slo=advisor.Slo(**limits, percentile=percentile or None),
        spares=spares,
        engine=engine,
        knobs=knobs,
        prices=prices,
        prompts=prompts,
        served=served,
        fleet=fleet,
        runs=session_runs(),
        **traffic,
    )


def planned(asked: CapacityInputs, tell: Callable[[advisor.Progress], None] | None = None) -> advisor.CapacityPlan:
    """Call ``advisor.plan`` with the inputs; ``tell`` takes how far it is.

    Raises:
        InputError: the question cannot be.

    """
    return advisor.plan(asked.model, asked.gpus, **asked.keywords(), runs=asked.runs, progress=tell)


def command_of(asked: CapacityInputs) -> str:
    """Write ``advisor plan`` with the inputs; of a trace it is for the busiest window, as the plan is.

    Raises:
        InputError: the question cannot be.

    """
    return question_command("plan", asked.model, ",".join(asked.gpus), asked.keywords(), comment=left_out(asked.runs))


def _traffic() -> dict[str, Any] | None:
    """Return the fields of the inputs that say what comes; None while a trace is asked for and there is none."""
    source = st.segmented_control(
        "Traffic",
        (RATE, CLASSES, TRACE),
        default=RATE,
        required=True,
        key="traffic",
        bind=inputs.BIND,
        help="Requests that are all alike; classes of requests with lengths, limits and priorities of their own; or a trace, a file "
        "of real requests: a time, the length of the prompt and of the answer in each row.",
    )
    if source != CLASSES:
        TABLES.leave()
    if source == TRACE:
        trace = _trace()
        if trace is None:
            return None
        peak = trace.peak
        return {"trace": trace, "workload": peak.workload, "spread": peak.spread, "burstiness": peak.burstiness}
    left, right = st.columns(2)
    with left, st.container(horizontal=True):
        why = "Standard deviation of the lengths over their mean (log-normal); 0: all alike."
        rate = inputs.number("Requests/s", "rate", (0.001, 1e5), 20.0, 1.0)
        spread = inputs.number("Spread of lengths", "spread", (0.0, 3.0), 0.0, 0.1, help=why)
    with right:
        input_len, output_len = inputs.lengths()
    workload = advisor.Workload(input_len=input_len, output_len=output_len, rate=rate)
    of_each = classes() if source == CLASSES else None
    return {"trace": None, "workload": workload, "spread": spread, "burstiness": 1.0, "classes": of_each}


def _trace() -> Trace | None:
    file = st.file_uploader(
        f"Trace: CSV (time, input, output) or JSON Lines, at most {MOST_MB} MB; a link cannot hold it",
        type=["csv", "jsonl"],
        max_upload_size=MOST_MB,
        key="trace",
        help="Times are seconds or dates, lengths tokens. Azure's, BurstGPT's and Mooncake's columns are known too.",
    )
    if file is None:
        return None
    data = file.getvalue()
    try:
        trace = read_trace(file_name(file.name), hashlib.sha256(data).hexdigest(), data)
    except advisor.InputError as error:  # said here, so that what else was entered stays
        st.error(plain(str(error)), icon=":material/error:")
        return None
    peak = trace.peak
    st.caption(
        plain(
            f"{len(trace.traffic)} requests in {short(trace.traffic.duration_s)} s, {short(peak.mean_rate)} a second on average; "
            f"planned for the busiest {short(peak.window_s)} s: {short(peak.workload.rate)} requests/s, "
            f"{peak.workload.input_len} in / {peak.workload.output_len} out, spread {short(peak.spread)}, "
            f"burstiness {short(peak.burstiness)}; the chosen fleet then serves the whole trace"
        )
    )
    return trace


@st.cache_resource(max_entries=4, ttl=3600, show_spinner="Reading the trace")
def read_trace(name: str, digest: str, _data: bytes) -> Trace:
    """Return the trace in an uploaded file.

    Raises:
        InputError: it is none; the message names the file and the row.

    """
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(_data)
        try:
            traffic = advisor.read_trace(path)
        except advisor.InputError as error:
            raise advisor.InputError(str(error).replace(f"{folder}/", "")) from error
    return Trace(name=name, digest=digest, traffic=traffic, peak=trace_peak(traffic))


def _certainty() -> tuple[float, float, float, int]:
    """Return percentile of the limits (0: their mean), confidence, headroom as a share, spares."""
    with st.container(horizontal=True):
        shares = {value: f"{value:g}% of requests" for value in (50.0, 90.0, 95.0, 99.0)} | {MEAN: "the mean"}
        percentile = inputs.choice("Limits hold for", "percentile", shares, index=2)
        why = "By the estimate itself, or with a margin for the error of predictions."
        confidence = inputs.choice("They are kept", "confidence", SURE, index=list(SURE).index(USUAL), help=why)
    with st.container(horizontal=True):
        why = "The limits hold at a rate that is higher by this."
        headroom = inputs.number("Headroom, %", "headroom", (0, 1000), 0, 5, help=why)
        why = "This many may fail while the limits still hold."
        spares = inputs.number("Spare replicas", "spares", (0, 1000), 0, 1, help=why)
    return percentile, confidence, headroom / 100.0, spares
