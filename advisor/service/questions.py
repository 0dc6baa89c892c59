"""What may be asked from outside: the public functions by name, their arguments bounded, their answers as the terminal and JSON have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from advisor.capacity.capacity_plan import plan
from advisor.capacity.fleet_options import row as option_row
from advisor.prediction.estimate_row import estimate_row
from advisor.prediction.estimation import estimate
from advisor.recommendation.comparison import compare
from advisor.recommendation.recommendation import candidate_row, recommend
from advisor.render.answers.simulation import simulation_row
from advisor.render.notebook import document
from advisor.simulator.class_mix import ClassQuestion  # noqa: TC001  pydantic reads it
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.names import suggestion
from catalog.schema import Deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.prediction.deployment_estimate import Estimate

MOST_REQUESTS = 50_000
"""Requests that one simulation or plan may serve for somebody else."""
MOST_CLASSES = 20
"""Fewer than a file may hold: each has requests of its own."""
MOST_FLEET_RATE = 1_000.0
"""Requests a second that a plan may be for."""

Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.:@+\-]{0,99}(/[A-Za-z0-9][A-Za-z0-9_.:@+\-]{0,99})?$")
]
"""A catalog name or a Hugging Face id; no path of this machine."""
Names = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.:@+,/\-]{0,299}$", max_length=300)]
"""Several, with commas between."""
Written = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Tokens = Annotated[int, Field(ge=1, le=2**24)] | Written
Amount = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | Written
Degree = Annotated[int, Field(ge=1, le=1024)]


class WorkloadFields(BaseModel):
    """Workload and limits, by the names of the command line's options."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    use: Name | None = Field(None, description="chat, rag, agent, summarise, batch or code: fills what is not stated")
    users: Tokens | None = Field(None, description="people at once, in place of a rate or a concurrency")
    think_time: Amount | None = Field(None, description="seconds from an answer to the same user's next request")
    input_len: Tokens | None = Field(None, description="tokens of a prompt, such as 1024 or 128k")
    output_len: Tokens | None = Field(None, description="tokens generated")
    images: int | None = Field(None, ge=0, le=1000, description="of every prompt, beside its text")
    image_size: Written | None = Field(None, description="height and width in pixels, such as 1024x768")
    ttft: Amount | None = Field(None, description="most time to the first token: milliseconds, or 0.2s")
    tpot: Amount | None = Field(None, description="most time per output token: milliseconds, or 50ms")
    e2e: Amount | None = Field(None, description="most time of a request: milliseconds, or 10s")
    engine: Names = Field(
        "vllm", description="vllm, sglang, tensorrt-llm, torch, lmdeploy, xfastertransformer or llama.cpp"
    )


class ClassedFields(WorkloadFields):
    """The same of traffic that may have classes."""

    classes: list[ClassQuestion] | None = Field(
        None, min_length=1, max_length=MOST_CLASSES, description="as docs/guides/classes.md has them"
    )
    scheduling_policy: Name = Field("fcfs", description="fcfs, or priority, by the priorities of classes")


class Recommend(WorkloadFields):
    """The best deployment of a model on up to these GPUs."""

    model: Name = Field(description="catalog name or Hugging Face id")
    gpus: Names = Field(description="4xA100, or several with commas between")
    concurrency: Tokens | None = Field(None, description="requests kept in flight")
    objective: Name = Field(
        "throughput_per_gpu", description="throughput_per_gpu, throughput, latency, ttft, tpot or cost"
    )
    dtypes: Names | None = Field(
        None,
        validation_alias=AliasChoices("dtypes", "dtype", "weights"),
        description="weight formats allowed: auto, fp8, int4, any",
    )
    price: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False, description="dollars per GPU-hour")
    confidence: float = Field(0.9, ge=0.5, le=0.99, description="with which limits hold: 0.5, or 0.75 to 0.99")
    disaggregate: bool = Field(default=False, description="also try pools for prompts and outputs on the same GPUs")


class Which(WorkloadFields):
    """Models, GPUs and formats side by side; what is not named is open."""

    models: Names | None = Field(
        None,
        validation_alias=AliasChoices("models", "model"),
        description="models with commas between; none: all of the catalog",
    )
    gpus: Names | None = Field(None, description="8xH100,4xB200, or kinds: H100; none: all kinds")
    formats: Names | None = Field(
        None, validation_alias=AliasChoices("formats", "dtype", "weights"), description="auto, fp8, int4, any"
    )
    budget: Amount | None = Field(None, description="most dollars an hour: 10, or $5000/month")
    objective: Name | None = Field(None, description="cost, size or an objective of recommend")
    top: int = Field(10, ge=1, le=40, description="rows")


class Estimated(BaseModel):
    """One static batch on one deployment."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    gpus: Name
    batch: int = Field(ge=1, le=100_000, description="sequences at once per replica")
    input_len: int = Field(1024, ge=1, le=2**24)
    output_len: int = Field(256, ge=1, le=2**24)
    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    dcp: Degree = 1
    all2all_backend: str = Field("", max_length=60)
    engine: Name = "vllm"
    dtype: Name = "auto"
    kv_dtype: Name = "auto"


class Simulate(ClassedFields):
    """Traffic on one deployment, request by request."""

    model: Name
    gpus: Name
    rate: Amount | None = Field(None, description="requests a second, or 300/min")
    concurrency: Tokens | None = Field(None, description="requests kept in flight")
    duration_s: float = Field(120.0, gt=0, le=1800, allow_inf_nan=False)
    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    dcp: Degree = 1
    all2all_backend: str = Field("", max_length=60)
    dtype: Name = "auto"
    draws: int = Field(4, ge=0, le=8, description="simulations again for intervals")
    engine: Name = "vllm"


class Plan(ClassedFields):
    """How many GPUs of which kind a rate needs within limits."""

    model: Name
    gpus: Names = Field(description="kinds with commas between: H100,H200")
    rate: Amount | None = Field(None, description="requests a second, or 300/min")
    objective: Name = Field("cost", description="cost, gpus or energy")
    headroom: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)
    spares: int = Field(0, ge=0, le=16)
    price: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False, description="dollars per GPU-hour")
    draws: int = Field(4, ge=0, le=8)
    engine: Name = "vllm"


def _rates(rate: Any, classes: Sequence[Mapping[str, Any]]) -> tuple[float | None, float]:
    """Return the rate that is stated, and the one that comes: where it is left out that of all classes."""
    from catalog.quantities import PER_SECOND

    stated = None if rate is None else PER_SECOND.read(rate, "rate")
    of_classes = sum(PER_SECOND.read(kind["rate"], "rate") for kind in classes if kind.get("rate") is not None)
    return stated, of_classes if stated is None else stated


def _with_classes(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the classes as a file would hold them."""
    return asked if "classes" not in asked else asked | {"classes": {"classes": asked["classes"]}}


def _simulate(rate: Any = None, **asked: Any) -> Any:
    knobs = {name: asked.pop(name) for name in ("tp", "pp", "dp", "ep", "dcp", "all2all_backend", "dtype", "engine")}
    stated, offered = _rates(rate, asked.get("classes", ()))
    if offered * asked["duration_s"] > MOST_REQUESTS:
        raise InputError(
            f"rate times duration_s is {offered * asked['duration_s']:.0f} requests; at most {MOST_REQUESTS}"
        )
    return simulate(deployment=Deployment(**knobs), rate=stated, **_with_classes(asked))


def _plan(rate: Any = None, engine: str = "vllm", **asked: Any) -> Any:
    stated, offered = _rates(rate, asked.get("classes", ()))
    if offered > MOST_FLEET_RATE:
        raise InputError(
            f"rate is {offered:g}; a plan asked from outside is for at most {MOST_FLEET_RATE:g} requests a second"
        )
    return plan(rate=stated, deployment=Deployment(engine=engine), **_with_classes(asked))


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its arguments, the function that answers, and its answer's flat rows."""

    name: str
    body: type[BaseModel]
    ask: Callable[..., Any]
    rows: Callable[[Any], list[dict[str, Any]]]

    def answer(self, asked: BaseModel) -> Any:
        """Return the answer.

        Raises:
            InputError: what is asked cannot be.

        """
        return self.ask(**asked.model_dump(exclude_none=True))


def _recommended(answer: Any) -> list[dict[str, Any]]:
    return [candidate_row(candidate, answer.slo) for candidate in answer.candidates]


def _estimated(answer: Estimate) -> list[dict[str, Any]]:
    return [estimate_row(answer)]


QUESTIONS: Mapping[str, Question] = {
    question.name: question
    for question in (
        Question("recommend", Recommend, recommend, _recommended),
        Question("which", Which, compare, lambda answer: [row.row() for row in answer.rows]),
        Question("estimate", Estimated, estimate, _estimated),
        Question("simulate", Simulate, _simulate, lambda answer: [simulation_row(answer)]),
        Question("plan", Plan, _plan, lambda answer: [option_row(option) for option in answer.options]),
    )
}
"""Every question by its name."""


def malformed(errors: Sequence[Mapping[str, Any]], body: type[BaseModel] | None) -> str:
    """Say in one sentence what is wrong with a body: which field, and what it must be; of an unknown one, which there are."""
    reasons = []
    for error in errors:
        field = ".".join(str(part) for part in error["loc"][1:])
        if error["type"] == "extra_forbidden":
            known = list(body.model_fields) if body else []
            hint = suggestion(field, known, otherwise=f"fields: {', '.join(known)}")
            reasons.append(f"unknown field {field!r:.60}; {hint}")
        elif error["type"] == "string_pattern_mismatch":
            reasons.append(f"{field} must be a name, never a path: letters, digits and some of ._:@+- and blanks")
        else:
            message = error["msg"][:1].lower() + error["msg"][1:]
            inside = field and not field.isdigit()
            reasons.append(f"{field}: {message}" if inside else f"the body is no JSON object: {message}")
    return "; ".join(dict.fromkeys(reasons))


def summary(answer: Any) -> str:
    """Return an answer as the terminal shows it."""
    return str(answer.summary())


def markdown(answer: Any) -> str:
    """Return an answer's sentence and first table as Markdown."""
    from advisor.render.tables import markdown as table

    shown = document(answer)
    return f"{shown.answer or '  |  '.join(shown.question)}\n\n{table(shown.columns) if shown.columns else ''}"
