"""What a deployment keeps in GPU memory, part by part; arrays over deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of the fullest GPU, in GiB, and the KV cache of one replica; arrays have shape (n,)."""

    weights_gib: Array
    activations_gib: Array
    engine_gib: Array
    """Outside torch: communication buffers, library workspaces, graphs."""
    kv_gib: Array
    """Space left for KV; 0 where nothing is left."""
    slack_gib: Array
    """The same where nothing cuts it off: below 0 where memory is short, above ``kv_gib`` where the engine uses less."""
    reserved_gib: Array
    """What the engine leaves untouched, by ``gpu_memory_utilization``."""
    kv_bytes_per_token: Array
    """On the fullest GPU, all its layers."""
    kv_capacity_tokens: Array
    """Of one replica, as the engine reports it: in sequences of ``max_model_len`` tokens."""
    kv_blocks: Array
    """Blocks of one replica's cache, all groups of layers drawing from one pool."""
    block_tokens: Array
    """Tokens in a block; 1: a sequence takes as many tokens as it has, whatever its layers' windows."""
    window_chunks: Array
    """Chunks of a prompt that a windowed layer keeps beside its window."""
    layer_weight_bytes: Array
    """Weights of the layers on one GPU, in bytes, offloaded ones included."""
    fits: NDArray[np.bool_]
    """Whether the engine starts: at least one block of KV is left."""

    def parts(self) -> dict[str, Array]:
        """Return GiB by part; they sum to the GPU's memory."""
        return {
            "weights": self.weights_gib,
            "kv_cache": self.kv_gib,
            "activations": self.activations_gib,
            "engine": self.engine_gib,
            "reserved": self.reserved_gib,
        }

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Memory:
        return Memory(**{name: getattr(self, name)[rows] for name in self.__slots__})


def engine_gib(layout: DeploymentArrays) -> Array:
    """Return memory outside torch that counts against the engine's share, as vLLM 0.24 reported it on H200.

    0.22 GiB on one GPU, 0.54 in a tensor-parallel group (custom all-reduce), 0.06 on a pipeline stage. The CUDA context
    and NCCL (0.5 to 1.5 GiB) come out of the share that ``gpu_memory_utilization`` leaves free.
    """
    return np.where(layout.tp > 1, 0.54, np.where(layout.pp > 1, 0.065, 0.2246))
