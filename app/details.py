"""What a question may say in more detail: what prompts hold and share, and how the engine drafts, caches, queues and adapts.

Both stand in expanders, which are open where a link states something in them; nothing that is empty there changes the answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor.render.menus import DRAFT_METHODS, POLICIES, ROUTERS
from app import inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROUTER_NAMES = {name: name.replace("_", " ") for name in ROUTERS}
QUEUE_NAMES = dict(zip(POLICIES, ("first come, first served", "by priority"), strict=True))
DRAFTS: Mapping[str, str] = {
    "": "no drafts",
    **dict(
        zip(
            DRAFT_METHODS,
            ("n-gram", "EAGLE head", "EAGLE-3 head", "the model's own heads", "a draft model"),
            strict=True,
        )
    ),
}
CHOSEN_DRAFTS = {**{name: words for name, words in DRAFTS.items() if name != "draft"}, "auto": "whichever gains"}
"""What ``advisor.recommend`` chooses from."""
NO_PROMPTS: Mapping[str, object] = {
    "images": 0,
    "image_size": "",
    "shared_prefix": 0,
    "num_prefixes": 1,
    "turns": 1,
    "think_time": None,
}
NO_SERVING: Mapping[str, object] = {
    "router": ROUTERS[0],
    "tiers": "",
    "drafts": "",
    "draft_len": None,
    "acceptance": None,
    "release": "",
    "sequences": None,
    "step_tokens": None,
}
NO_FLEET: Mapping[str, object] = {
    "queue": POLICIES[0],
    "pools": False,
    "link": None,
    "budgets": False,
    "adapters": 0,
}
"""Values of the widgets that state nothing, by their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What prompts hold beside their text and what they share, as keywords of ``advisor.recommend`` and ``advisor.plan``."""

    images: int | None = None
    image_size: str | None = None
    shared_prefix: int = 0
    num_prefixes: int = 1
    turns: int = 1
    think_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDetails:
    """How an engine serves, apart from its layout and formats."""

    router: str = ROUTERS[0]
    kv_offload: str | None = None
    speculate: str | None = None
    draft_len: int | None = None
    acceptance: float | None = None
    engine_version: str = ""
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None

    @property
    def drafts(self) -> dict[str, Any]:
        """Return its speculation as keywords."""
        return {"speculate": self.speculate, "draft_len": self.draft_len, "acceptance": self.acceptance}

    @property
    def knobs(self) -> dict[str, Any]:
        """Return its fields of an ``advisor.Deployment``."""
        names = ("kv_offload", "engine_version", "max_num_seqs", "max_num_batched_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What only a fleet has: a queue by priority, pools, smaller steps, and adapters that its traffic asks for."""

    scheduling_policy: str = POLICIES[0]
    disaggregate: bool = False
    kv_link_gbps: float | None = None
    search_budgets: bool = False
    lora: Mapping[str, Any] | None = None
    """Fields of an ``advisor.Adapters``."""

    @property
    def adapters(self) -> advisor.Adapters | None:
        """Return the adapters that requests are of.

        Raises:
            InputError: there can be no such adapters.

        """
        return None if self.lora is None else advisor.Adapters(**self.lora)

    @property
    def keywords(self) -> dict[str, Any]:
        """Return them as keywords of ``advisor.plan``, but for the adapters, which are the deployment's."""
        return {name: value for name, value in asdict(self).items() if name != "lora"}


def prompts() -> Prompts:
    """Ask what prompts hold and share."""
    with _detail("Images, shared prompts and sessions", NO_PROMPTS):
        with st.container(horizontal=True):
            why = "Beside the tokens of its text; of models that take images."
            images = inputs.number("Images per prompt", "images", (0, 10_000), 0, 1, help=why)
            size = st.text_input(
                "Their size, pixels", key="image_size", bind=inputs.BIND, placeholder="1024x1024", max_chars=20
            )
            why = "A system prompt in front of every prompt, which a prefix cache keeps."
            shared = inputs.number("Shared prefix, tokens", "shared_prefix", (0, 2**24), 0, 128, help=why)
            why = "Different system prompts, used in turn."
            prefixes = inputs.number("Shared prefixes", "num_prefixes", (1, 10**6), 1, 1, help=why)
        with st.container(horizontal=True):
            why = "Requests of a session; each sends all that was said before. The rate counts requests."
            turns = inputs.number("Turns of a session", "turns", (1, 1000), 1, 1, help=why)
            why = "From an answer to the next request of the session."
            think = inputs.number("Think time, s", "think_time", (0.0, 1e6), None, 5.0, help=why, placeholder="none")
    return Prompts(
        images=images or None,
        image_size=(size.strip() or None) if images else None,
        shared_prefix=shared,
        num_prefixes=prefixes if shared else 1,
        turns=turns,
        think_time=think if turns > 1 else None,
    )


def engine(*, plans: bool) -> tuple[EngineDetails, Fleet]:
    """Ask how the engine serves; with ``plans`` also what only a fleet has."""
    stated = {**NO_SERVING, **(NO_FLEET if plans else {})}
    with _detail("Drafts, cache tiers, adapters and queue" if plans else "Drafts, cache tiers and router", stated):
        drafts = _drafts(DRAFTS if plans else CHOSEN_DRAFTS)
        with st.container(horizontal=True):
            tiers = st.text_input(
                "KV cache below the GPUs",
                key="tiers",
                bind=inputs.BIND,
                placeholder="none",
                max_chars=100,
                help="Tiers of one replica with their sizes: cpu=200GB, disk=2TB@6GB/s or store=10TB@25GB/s, with commas between.",
            )
            router = inputs.choice("Router", "router", ROUTER_NAMES, help="Which replica a request goes to.")
            fleet = _fleet() if plans else Fleet()
        with st.container(horizontal=True):
            why = "Such as 0.24; empty: the release that the catalog describes."
            release = st.text_input("Engine's release", key="release", bind=inputs.BIND, max_chars=20, help=why)
            why = "That run at once on a replica, at most (--max-num-seqs)."
            sequences = inputs.number(
                "Sequences", "sequences", (1, 10**6), None, 16, help=why, placeholder="the engine's"
            )
            why = "Of one step, at most (--max-num-batched-tokens)."
            tokens = inputs.number(
                "Tokens a step", "step_tokens", (1, 10**7), None, 512, help=why, placeholder="the engine's"
            )
    served = EngineDetails(
        router=router,
        kv_offload=tiers.strip() or None,
        engine_version=release.strip(),
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
        **drafts,
    )
    return served, fleet


def _detail(label: str, stated: Mapping[str, object]) -> Any:
    """Return an expander that is open where the address states one of these."""
    return st.expander(label, expanded=_any_of(stated), icon=":material/tune:")


def _any_of(keys: Iterable[str]) -> bool:
    return any(key in st.query_params for key in keys)


def _drafts(methods: Mapping[str, str]) -> dict[str, Any]:
    """Ask for speculative decoding, as keywords of ``advisor``."""
    if st.session_state.get("drafts") not in {None, *methods}:
        st.session_state["drafts"] = ""  # another page has other ones
    with st.container(horizontal=True):
        why = "What drafts tokens, which the model verifies; the answer takes it only where it gains."
        method = inputs.choice("Speculative decoding", "drafts", methods, help=why)
        drafter = ""
        if method == "draft":
            drafter = st.selectbox("Draft model", list(inputs.models()), key="drafter", bind=inputs.BIND)
        why = "Drafted in each step; empty: the number that gains most."
        length = inputs.number("Drafted tokens", "draft_len", (1, 64), None, 1, help=why, placeholder="choose best")
        why = "Probability that a drafted token is accepted; empty: as published for the method, with its spread."
        accepted = inputs.number("Accepted, %", "acceptance", (0, 100), None, 5, help=why, placeholder="as published")
    if not method:
        return {}
    return {
        "speculate": f"{method}:{drafter}" if drafter else method,
        "draft_len": length,
        "acceptance": None if accepted is None else accepted / 100,
    }


def _fleet() -> Fleet:
    why = "Order in which a replica serves what waits; by priority as vLLM has it."
    queue = inputs.choice("Queue", "queue", QUEUE_NAMES, help=why)
    why = "Different ones that requests are of, drawn by their popularity; 0: none."
    number = inputs.number("LoRA adapters", "adapters", (0, 100_000), 0, 1, help=why)
    lora = _lora(number) if number else None
    why = "Also try fleets with GPUs for prompts and others for outputs."
    pools = st.toggle("Pools for prompts", key="pools", bind=inputs.BIND, help=why)
    link = None
    if pools:
        why = "Of a GPU over the link between both pools; empty: NVLink within a node, else the network."
        link = inputs.number("Link, GB/s", "link", (0.001, 1e6), None, 10.0, help=why, placeholder="the hardware's")
    why = "Also try smaller token budgets of a step where a limit decides how many replicas there are."
    budgets = st.toggle("Smaller steps", key="budgets", bind=inputs.BIND, help=why)
    return Fleet(scheduling_policy=queue, disaggregate=pools, kv_link_gbps=link, search_budgets=budgets, lora=lora)


def _lora(number: int) -> dict[str, Any]:
    rank = inputs.number("Their rank", "lora_rank", (1, 512), 16, 8)
    slots = inputs.number(
        "Slots on the GPUs", "max_loras", (1, 1024), 1, 1, help="Adapters in one batch (--max-loras)."
    )
    why = "Adapters in CPU memory (--max-cpu-loras); others are loaded from disk. Empty: as many as have slots."
    in_cpu = inputs.number("In CPU memory", "max_cpu_loras", (1, 100_000), None, 1, help=why, placeholder="as slots")
    why = "Exponent of Zipf's law of how often each is asked for; 0: equally often."
    skew = inputs.number("Skew", "lora_skew", (0.0, 10.0), 1.0, 0.1, help=why)
    return {"number": number, "rank": rank, "max_loras": slots, "max_cpu_loras": in_cpu, "skew": skew}
