"""What is asked of a deployment, read as people say it: lengths, a use, users, limits; numbers or text with units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from catalog.errors import InputError, Note
from catalog.image_encoder import MOST_IMAGES
from catalog.models.image_encoders import read_size, with_images
from catalog.names import suggestion
from catalog.quantities import COUNT, MILLISECONDS, PER_SECOND, SECONDS
from catalog.schema import Slo, Workload, require_positive
from catalog.uses import Use, find_use
from catalog.wording import counted, latency_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalog.schema import Model

MOST_USERS = 10**9
IMAGE_SIZE = (1024, 1024)
"""Height and width of an image where nobody says."""
PERCENTILE = 95.0
"""Of the requests that limits under traffic hold for, where nobody says."""


class Requests(Protocol):
    """Requests whose lengths are known, such as ``advisor.Arrivals``."""

    @property
    def input_len(self) -> NDArray[Any]: ...
    @property
    def output_len(self) -> NDArray[Any]: ...
    @property
    def notes(self) -> tuple[Note, ...]: ...


class QuestionFlags(TypedDict, total=False):
    """Keywords named like the command line's options, in place of a ``Workload`` and an ``Slo``; None: not stated."""

    use: str | None
    """chat, rag, agent, summarise, batch or code (``catalog.uses``): what is not stated otherwise is taken from there."""
    users: str | int | None
    """People at once, each of whom asks again after the think time."""
    think_time: str | float | None
    """Seconds from an answer to the next request of the same user."""
    input_len: str | int | None
    output_len: str | int | None
    concurrency: str | int | None
    images: str | int | None
    """Of every prompt, beside the ``input_len`` tokens of its text; of models that take them."""
    image_size: str | None
    """Height and width of each in pixels, "1024x1024", which it is where nobody says."""
    ttft: str | float | None
    tpot: str | float | None
    e2e: str | float | None
    percentile: float | None


LENGTHS = {"input_len": COUNT, "output_len": COUNT, "concurrency": COUNT, "rate": PER_SECOND}
LIMITS = {"ttft": MILLISECONDS, "tpot": MILLISECONDS, "e2e": MILLISECONDS}
SAME = {"isl": "input_len", "osl": "output_len", "max_concurrency": "concurrency"} | {
    f"{name}_ms": name for name in LIMITS
}
"""Other names of the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of a deployment, and what of it was filled in."""

    workload: Workload
    slo: Slo
    use: Use | None = None
    users: float | None = None
    think_s: float = 0.0
    """From an answer to the next request of the same user or session; 0 where neither that nor a use is stated."""
    images: int = 0
    """Of every prompt,"""
    image_size: tuple[int, int] = IMAGE_SIZE
    """and the height and width of each in pixels."""
    notes: tuple[Note, ...] = field(default=())

    def of_model(self, model: Model, *, sessions: bool = False) -> tuple[Model, Demand]:
        """Return the model asked about the images, and the demand with their tokens in its prompts; ``sessions``: whether prompts grow.

        Raises:
            InputError: the model takes no such images.

        """
        if self.images and sessions:
            raise InputError("images are of prompts that are all alike; leave out images, or turns and sessions")
        asked, workload, notes = with_image_tokens(model, self.workload, self.images, self.image_size)
        return asked, replace(self, workload=workload, notes=(*self.notes, *notes))

    def spread(self, stated: float | None) -> float:
        """Return the coefficient of variation of the lengths: as stated, else the use's, else 0."""
        return stated if stated is not None else self.use.spread if self.use else 0.0

    def prefix_hit_rate(self, stated: float | None) -> float:
        """Return the share of prompts that is found in the prefix cache: as stated, else the use's, else 0."""
        return stated if stated is not None else self.use.prefix_hit_rate if self.use else 0.0


def with_image_tokens(
    model: Model, workload: Workload, images: int, size: tuple[int, int]
) -> tuple[Model, Workload, tuple[Note, ...]]:
    """Return a model asked about images in its prompts, the workload with their tokens, and what to say of that; both as they are without.

    Raises:
        InputError: the model takes no such images.

    """
    if not images:
        return model, workload, ()
    asked = with_images(model, images, size, workload.input_len)
    assert asked.images is not None
    image = asked.images.image
    text = (
        f"{counted(images, 'image')} of {size[0]}x{size[1]} beside {workload.input_len} tokens of text: {image.tokens} tokens of the "
        f"prompt each, {image.patches} patches through the encoder"
    )
    return asked, replace(workload, input_len=asked.images.prompt_len), (Note(text, "asked"),)


def read_images(stated: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
    """Return the images of a prompt and their height and width.

    Raises:
        InputError: either cannot be, or there is a size and no image.

    """
    if stated.get("images") is None:
        if stated.get("image_size") is not None:
            raise InputError("image_size is of images; say how many a prompt has with images (--images 1)")
        return 0, IMAGE_SIZE
    number = int(COUNT.read(stated["images"], "images"))
    if number:
        require_positive("images", number, most=MOST_IMAGES)
    size = stated.get("image_size")
    return number, IMAGE_SIZE if size is None else read_size(size)


def read_demand(
    workload: Workload | Mapping[str, Any] | Requests | None = None,
    slo: Slo | Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    steady: bool = False,
    percentile: float | None = None,
    rate: float | None = None,
    turns: int = 1,
) -> Demand:
    """Return the demand that a workload, limits and flags state together; a flag wins, a use fills what none states.

    Users become a rate: each asks again a think time after an answer, so no more than users over that time come a
    second. In the steady state they become requests in flight: the share of the time that an answer takes if it takes all
    that the limits allow (Little's law).

    Args:
        workload: a ``Workload``, a mapping of its fields, or requests of a trace, whose mean lengths count.
        slo: an ``Slo`` or a mapping of its fields.
        flags: the keys of ``QuestionFlags``.
        steady: whether requests in flight are asked for, not a rate.
        percentile: of the limits, where the flags state some and no percentile.
        rate: a rate that is stated elsewhere.
        turns: requests of a session, between which is a think time.

    Raises:
        InputError: a name or value that none of them takes, or two that contradict one another.

    """
    stated = {name: value for name, value in (flags or {}).items() if value is not None}
    allowed = [*QuestionFlags.__annotations__, *SAME]
    for name in stated:
        if name not in allowed:
            near = suggestion(name, allowed, otherwise=", ".join(QuestionFlags.__annotations__))
            raise InputError(f"there is no argument {name!r:.60}; {near}")
    stated = {SAME.get(name, name): value for name, value in stated.items()}
    use = find_use(str(stated["use"])) if "use" in stated else None
    lengths, notes = _lengths(workload, use)
    for name in ("input_len", "output_len", "concurrency"):
        if name in stated:
            changes: dict[str, Any] = {name: LENGTHS[name].read(stated[name], name)}
            lengths = replace(lengths, **changes)
    limits, filled = _limits(slo, stated, use, percentile)
    if use is not None:
        notes.append(Note(_use_text(use, lengths, limits, filled), "asked"))
    if "think_time" in stated and "users" not in stated and turns == 1:
        raise InputError("a think time is of users; say how many with users (--users)")
    thinking = "think_time" in stated or (use is not None and use.think_time_s is not None)
    users = COUNT.read(stated["users"], "users") if "users" in stated else None
    images, size = read_images(stated)
    if images and workload is not None and not isinstance(workload, (Workload, Mapping)):
        raise InputError("a trace says how long prompts are, their images among them; leave out images, or the trace")
    if users is not None:
        require_positive("users", users, most=MOST_USERS)
        if rate is not None or lengths.rate is not None or lengths.concurrency is not None:
            raise InputError("users already say how much comes; leave out the users, or the rate and the concurrency")
        for name, limit in limits.limits.items():  # they say how long an answer takes
            require_positive(name, limit, most=1e9, whole=False)
        think = _think_s(stated.get("think_time"), use)
        lengths, note = _of_users(users, think, lengths, limits, steady=steady)
        notes.append(note)
    return Demand(
        workload=lengths,
        slo=limits,
        use=use,
        users=users,
        think_s=_think_s(stated.get("think_time"), use) if thinking else 0.0,
        images=images,
        image_size=size,
        notes=tuple(notes),
    )


def _lengths(workload: Workload | Mapping[str, Any] | Requests | None, use: Use | None) -> tuple[Workload, list[Note]]:
    if workload is None:
        return (Workload() if use is None else Workload(input_len=use.input_len, output_len=use.output_len)), []
    if isinstance(workload, Workload):
        return workload, []
    if isinstance(workload, Mapping):
        base, _ = _lengths(None, use)
        return replace(base, **_read("workload", workload, LENGTHS)), []
    if not hasattr(workload, "input_len") or not hasattr(workload, "output_len"):
        raise InputError(
            f"workload is {workload!r:.60}; it must be a Workload, a dict of its fields, or read_trace(...)"
        )
    means = [max(round(float(length.mean())), 1) for length in (workload.input_len, workload.output_len)]
    most = int((workload.input_len + workload.output_len).max())
    note = Note(
        f"{len(workload.input_len):,} requests of the trace: {means[0]} in and {means[1]} out on average, {most} together at most",
        "asked",
    )
    return Workload(input_len=means[0], output_len=means[1]), [*workload.notes, note]


def _limits(
    slo: Slo | Mapping[str, Any] | None, stated: Mapping[str, Any], use: Use | None, percentile: float | None
) -> tuple[Slo, bool]:
    """Return the limits, and whether they are the use's."""
    if slo is not None and not isinstance(slo, (Slo, Mapping)):
        raise InputError(f"slo is {slo!r:.60}; it must be an Slo or a dict such as {{'tpot': 50}}")
    given = slo if isinstance(slo, Slo) else Slo(**_limits_of(slo or {}))
    own: dict[str, Any] = {f"{name}_ms": LIMITS[name].read(stated[name], name) for name in LIMITS if name in stated}
    filled = use is not None and not own and not given.limits
    if filled and use is not None:
        own = {"ttft_ms": use.ttft_ms, "tpot_ms": use.tpot_ms}
    if "percentile" in stated:
        own["percentile"] = stated["percentile"] or None
    elif own and slo is None:
        own["percentile"] = percentile
    return replace(given, **own), filled


def _limits_of(slo: Mapping[str, Any]) -> dict[str, Any]:
    read = _read("slo", slo, LIMITS | {"percentile": PER_SECOND})
    return {name if name == "percentile" else f"{name}_ms": value for name, value in read.items()}


def _read(what: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in values.items():
        name = SAME.get(key, key)
        if name not in known:
            near = suggestion(str(key), known, otherwise=f"it has {', '.join(known)}")
            raise InputError(f"{what} has no {key!r:.60}; {near}")
        if value is not None:
            read[name] = known[name].read(value, name)
    return read


def _use_text(use: Use, lengths: Workload, slo: Slo, filled: bool) -> str:
    limits = [f"{latency_label(name)} <= {most:g} ms" for name, most in slo.limits.items()] if filled else []
    took = [f"{lengths.input_len} in / {lengths.output_len} out", *limits]
    return f"{use.name}, {use.words}: {', '.join(took)} (from {use.source})"


def _think_s(stated: str | float | None, use: Use | None) -> float:
    if stated is not None:
        think = SECONDS.read(stated, "think_time")
        require_positive("think_time", think, whole=False, most=1e9)
        return think
    if use is None or use.think_time_s is None:
        raise InputError(
            "users need a think time, seconds from an answer to the next request (--think-time 60), or a use (--use chat)"
        )
    return use.think_time_s


def _of_users(users: float, think_s: float, lengths: Workload, slo: Slo, *, steady: bool) -> tuple[Workload, Note]:
    who = f"{users:g} users, each asking again {think_s:g} s after an answer"
    if not steady:
        rate = users / think_s
        return replace(lengths, rate=rate), Note(f"{who}: at most {rate:.3g} requests a second", "asked")
    parts = [slo.e2e_ms, None if slo.tpot_ms is None else (slo.ttft_ms or 0.0) + slo.tpot_ms * (lengths.output_len - 1)]
    longest = min((part for part in parts if part is not None), default=None)
    if longest is None:
        raise InputError(
            "users become requests in flight by how long an answer may take; state --tpot or --e2e, or a use (--use chat)"
        )
    answer_s = longest / 1e3
    flight = max(math.ceil(users * answer_s / (think_s + answer_s)), 1)
    note = f"{who} of at most {answer_s:.3g} s: {flight} requests in flight"
    return replace(lengths, concurrency=flight), Note(note, "asked")


assert {part.name for part in dataclasses.fields(Workload)} == set(LENGTHS)
