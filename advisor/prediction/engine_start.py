"""Whether an engine starts with the context that was asked for: its KV cache has to hold one such request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from catalog.engines import find_engine, resolve, valid_tp
from catalog.errors import InputError, Note

if TYPE_CHECKING:
    from advisor.prediction.deployment_estimate import Estimate
    from catalog.schema import Cluster, Deployment, Model

SAFE_SHARE = 0.95
"""Of the tokens that a KV cache is said to hold: what is left covers the error of the model of memory."""
CONTEXT_STEP = 256
"""Of tokens, in which a context is chosen."""
WIDEST_SHARE = 0.95
"""The largest share of a GPU's memory that is proposed to an engine."""


def checked_start(answer: Estimate, max_model_len: int | None) -> Estimate:
    """Return an answer, or one that says that the engine will not start with a ``max_model_len`` its cache cannot hold.

    vLLM: v1/core/kv_cache_utils.py ``_check_enough_kv_cache_memory``; others serve shorter contexts or stop, too.
    """
    held, needed = answer.kv_capacity_tokens, answer.input_len + answer.output_len
    if not answer.fits or held >= max(max_model_len or 0, needed):
        return answer
    if max_model_len is not None and held < max_model_len:
        text = shortage(answer.model, answer.cluster, answer.deployment, held, f"max_model_len is {max_model_len:,}")
    else:
        text = shortage(answer.model, answer.cluster, answer.deployment, held, f"a request takes {needed:,} tokens")
    note = Note(text, "warning")
    kept = [known for known in answer.notes if "run at once" not in known.text]
    return replace(
        answer,
        fits=False,
        prefill_ms=None,
        ttft_ms=None,
        client_ttft_ms=None,
        tpot_ms=None,
        e2e_ms=None,
        output_tok_s=None,
        running=0,
        output_tok_s_per_gpu=None,
        energy_j_per_token=None,
        usd_per_mtok=None,
        notes=(*kept, note),
    )


def safe_context(model: Model, held: int, length: int) -> int:
    """Return the ``max_model_len`` with which an engine surely starts where none is stated, at least ``length``.

    vLLM refuses to start when a single sequence of ``max_model_len`` does not fit into the ``held`` tokens of one replica's cache.
    """
    safe = int(held * SAFE_SHARE) // CONTEXT_STEP * CONTEXT_STEP
    return max(safe, length) if safe < model.max_position_embeddings else model.max_position_embeddings


def context_note(model: Model, chosen: int, held: int) -> Note:
    """Say which ``max_model_len`` was chosen where none was stated, and why not all the model has."""
    if chosen >= model.max_position_embeddings:
        return Note(f"context: {chosen:,} tokens, the most {model.name} takes")
    return Note(
        f"context: {chosen:,} of the {model.max_position_embeddings:,} tokens {model.name} takes: the KV cache of a replica holds {held:,}"
    )


def shortage(model: Model, cluster: Cluster, deployment: Deployment, held: int, wanted: str) -> str:
    """Say in one sentence which context there is, and what would give more."""
    more = [f"{words} {tokens:,}" for words, tokens in _more(model, cluster, deployment) if tokens > held]
    instead = f"; with {', with '.join(more)}" if more else ""
    return f"{deployment.engine} will not start: {wanted} and the KV cache of a replica holds {held:,} tokens{instead}"


def _more(model: Model, cluster: Cluster, deployment: Deployment) -> list[tuple[str, int]]:
    """List changes and the tokens that the cache would hold after each."""
    engine = find_engine(deployment.engine)
    changes: list[tuple[str, Deployment]] = []
    if deployment.kv_dtype not in ("fp8", "int8", "nvfp4") and "fp8" in engine.kv_formats(cluster.gpu, model):
        changes.append(("--kv-dtype fp8", replace(deployment, kv_dtype="fp8")))
    replica = deployment.pp * deployment.dp
    wider = [tp for tp in valid_tp(model) if deployment.tp < tp and tp * replica <= cluster.num_gpus]
    changes += [(f"--tp {tp}", replace(deployment, tp=tp)) for tp in wider[:1]]
    if deployment.gpu_memory_utilization is not None and deployment.gpu_memory_utilization < WIDEST_SHARE:
        wide = replace(deployment, gpu_memory_utilization=WIDEST_SHARE)
        changes.append((f"--gpu-memory-utilization {WIDEST_SHARE:g}", wide))
    capacities = []
    for words, changed in changes:
        try:
            layout = DeploymentArrays.of([resolve(changed, model, cluster).value], model, cluster.gpu)
        except InputError:
            continue
        capacities.append((words, int(memory(model, cluster, layout, deployment.engine).kv_capacity_tokens[0])))
    return capacities
