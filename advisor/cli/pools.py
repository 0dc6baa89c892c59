"""Deployments that are compared under the same requests, and the file that holds these."""

from __future__ import annotations

import contextlib
import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.cli.options.values import checked_policy, checked_router, one_of
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.schema import Deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advisor.simulator.request_results import RequestResults

POOLS = ("prefill_replicas", "prefill_tp")
SLOTS = ("max_loras", "max_cpu_loras")
LAYOUT = ("tp", "pp", "dp", "ep", "dcp")
WHOLE = (*POOLS, *SLOTS, *LAYOUT, "max_num_seqs", "max_num_batched_tokens", "max_model_len", "draft_len")
NUMBERS = ("gpu_memory_utilization", "offload")
TEXTS = (
    "engine",
    "dtype",
    "kv_dtype",
    "kv_offload",
    "all2all_backend",
    "router",
    "scheduling_policy",
    "prefill_gpus",
    "speculate",
)
SWITCHES = ("enable_prefix_caching",)
BESIDE = (*POOLS, "router", "scheduling_policy", "prefill_gpus", "speculate", "draft_len", *SWITCHES)
"""Knobs that are no fields of a deployment."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a deployment is served beside its own knobs, as the options name it."""

    prefill_replicas: int = 0
    """Replicas that only compute prompts,"""
    prefill_tp: int | None = None
    """and the GPUs of each;"""
    prefill_gpus: str | None = None
    """where those are of another kind, all of them."""
    router: str = "round_robin"
    enable_prefix_caching: bool = True
    scheduling_policy: str = "fcfs"
    speculate: str | None = None
    draft_len: int | None = None
    acceptance: float | None = None

    def keywords(self) -> dict[str, Any]:
        """Return what ``simulate`` takes of it beside the deployment for prompts."""
        return {
            "router": self.router,
            "enable_prefix_caching": self.enable_prefix_caching,
            "scheduling_policy": self.scheduling_policy,
            "prefill_gpus": self.prefill_gpus,
            "speculate": self.speculate,
            "draft_len": self.draft_len,
            "acceptance": self.acceptance,
        }

    def prefill(self, deployment: Deployment) -> Deployment | None:
        """Return their deployment; None without them. Of GPUs of another kind as many replicas as they hold, without a word."""
        tp, pp = self.prefill_tp or deployment.tp, deployment.pp
        replicas = self.prefill_replicas
        if not replicas and self.prefill_gpus is not None:
            replicas = parse_cluster(self.prefill_gpus).value.num_gpus // (tp * pp)
            if not replicas:
                raise InputError(
                    f"--prefill-gpus {self.prefill_gpus} holds no replica of {tp * pp} GPUs; use --prefill-tp"
                )
        if not replicas:
            if self.prefill_tp is not None:
                raise InputError("--prefill-tp is of replicas for prompts; say how many with --prefill-replicas")
            return None
        ep = tp if deployment.ep > 1 else 1
        return replace(deployment, dp=replicas, tp=tp, ep=ep)


def changed(base: Deployment, knobs: str, serving: Serving | None = None) -> tuple[Deployment, Serving]:
    """Return ``base`` and ``serving`` with the knobs that ``--compare`` names: "tp=1,dp=2".

    Raises:
        InputError: there is no such knob, or that is no value for it.

    """
    values: dict[str, Any] = {}
    for part in knobs.split(","):
        name, equals, text = (word.strip() for word in part.partition("="))
        if not equals or not text:
            raise InputError(f"--compare {knobs!r:.60} must be KNOB=VALUE,..., such as tp=1,dp=2")
        name = one_of("--compare", name, (*WHOLE, *NUMBERS, *TEXTS, *SWITCHES))
        if name in values:
            raise InputError(f"--compare {knobs!r:.60} gives {name} twice")
        try:
            values[name] = int(text) if name in WHOLE else float(text) if name in NUMBERS else text
        except ValueError:
            kind = "a whole number" if name in WHOLE else "a number"
            raise InputError(f"--compare {knobs!r:.60}: {name} must be {kind}") from None
    if "router" in values:
        values["router"] = checked_router(values["router"])
    if "scheduling_policy" in values:
        values["scheduling_policy"] = checked_policy(values["scheduling_policy"])
    for name in SWITCHES:
        if name in values:
            values[name] = one_of(f"--compare {name}", values[name], ("true", "false")) == "true"
    apart = {name: values.pop(name) for name in BESIDE if name in values}
    if apart.get("speculate") in ("none", "off"):
        apart |= {"speculate": None, "draft_len": None, "acceptance": None}
    slots = {name: values.pop(name) for name in SLOTS if name in values}
    if slots:
        if base.adapters is None:
            raise InputError(
                f"--compare {knobs!r:.60} is of adapters; say how many requests are of with --lora-adapters"
            )
        held = base.adapters.max_cpu_loras
        if held is not None and held < slots.get("max_loras", 1):
            slots.setdefault("max_cpu_loras", slots["max_loras"])
        values["adapters"] = replace(base.adapters, **slots)
    assert values.keys() <= {f.name for f in fields(Deployment)}
    serving = replace(serving or Serving(), **apart)
    apart_at_all = serving.prefill_replicas or serving.prefill_gpus is not None
    return replace(base, **values), serving if apart_at_all else replace(serving, prefill_tp=None)


@contextlib.contextmanager
def requests_file(path: str | None) -> Iterator[Callable[[int, RequestResults], None] | None]:
    """Return what writes requests and the number of their deployment into that file, which is there once all went well.

    Raises:
        InputError: it cannot be written.

    """
    if path is None:
        yield None
        return
    from advisor.simulator.request_results import COLUMNS  # brings numpy

    target = Path(path)
    special = target.exists() and not target.is_file()  # a pipe or a terminal
    written = target if special else target.with_name(f"{target.name}.part")
    try:
        with written.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("deployment", *COLUMNS))
            yield lambda number, part: writer.writerows((number, *row) for row in part.rows())
        if not special:
            written.replace(target)
    except OSError as error:
        raise InputError(f"cannot write the requests to {path}: {error.strerror}") from error
    finally:
        if not special:
            written.unlink(missing_ok=True)
