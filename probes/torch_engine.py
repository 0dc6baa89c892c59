"""The plain-PyTorch engine: one process a GPU, of which the first is told what to run and tells the others."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.nn import functional

from catalog.schema import InputError
from probes.checkpoint import Checkpoint, is_checkpoint
from probes.parallel_layout import lay_out
from probes.parallel_links import Links, gather
from probes.torch_graphs import check_graphs
from probes.torch_pipeline import Pipeline
from probes.transformer import Step, Transformer
from probes.transformer_cache import Cache, CacheMemory, cache_bytes_per_token
from probes.transformer_kernels import Kernels, fused_kernels
from probes.transformer_settings import check_runs, read_settings
from probes.transformer_sources import RandomSource
from probes.transformer_weights import read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catalog.schema import Deployment, Model
    from probes.meter import Meter
    from probes.torch_pipeline import Watch
    from probes.transformer_sources import Source

GIB = 2**30
PREFILL_TOKENS = 8192
"""Tokens of a prefill micro-batch where the deployment names no ``max_num_batched_tokens``: vLLM's for a server."""

MAX_SEQUENCES = 256
"""Sequences at once where the deployment names no ``max_num_seqs``: vLLM's."""

STOP, GENERATE, REPORT = range(3)


class TorchEngine:
    """One process's part of a model in plain PyTorch, and on rank 0 an ``Engine`` (see ``probes.static``).

    ``torch.distributed`` must be initialised if the deployment has more than one GPU, with gloo for what lies on the CPU.
    Every process makes one; rank 0 then calls the methods of ``Engine`` and at last ``stop``, the others ``follow``.
    """

    name = "torch"
    version = str(torch.__version__)

    def __init__(
        self,
        model: Model,
        deployment: Deployment,
        *,
        rank: int = 0,
        device: torch.device | str = "cpu",
        source: Source | None = None,
        costs: Sequence[float] | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Weights come from ``source``; without one from safetensors beside the ``config.json`` that the model was read
        from, or else they are random. ``costs`` are those of the layers and the head, see ``lay_out``; ``meter`` is that
        of all GPUs, for rank 0.

        Raises:
            InputError: the model cannot be run so, its checkpoint is unusable, or not one sequence fits beside it.

        """
        began = time.perf_counter()
        self.device = torch.device(device)
        check_runs(model, deployment, device=self.device.type)
        if deployment.compiled:
            check_graphs()
        if model.num_experts and not hasattr(functional, "grouped_mm"):
            raise InputError(f"torch {torch.__version__} has no grouped_mm, which experts need; install a newer one")
        self.model, self.deployment, self._meter = model, deployment, meter
        self._dtype = getattr(torch, model.dtype if deployment.dtype == "auto" else deployment.dtype)
        self.positions = deployment.max_model_len or model.max_position_embeddings
        self._rows = deployment.max_num_seqs or MAX_SEQUENCES
        self.layout = lay_out(model, tp=deployment.tp, pp=deployment.pp, rank=rank, costs=costs)
        if source is None:
            folder = Path(model.source).parent
            has_weights = model.source.endswith(".json") and is_checkpoint(folder)
            source = Checkpoint(folder) if has_weights else RandomSource(device=self.device)
        settings = read_settings(model)
        weights = read_weights(model, self.layout, source, dtype=self._dtype, device=self.device)
        self.weight_bytes = weights.nbytes()
        self._transformer = Transformer(
            model,
            settings,
            self.layout,
            weights,
            Links(self.layout, dtype=self._dtype, device=self.device),
            positions=self.positions,
            kernels=fused_kernels(self.device.type) if deployment.compiled else Kernels(),
        )
        self._prefill_tokens = deployment.max_num_batched_tokens or PREFILL_TOKENS
        self.kv_capacity_tokens = self._capacity()
        self._pipeline = Pipeline(
            self._transformer,
            self._memory(self.kv_capacity_tokens, layers=len(self.layout.layers)),
            positions=self.positions,
            prefill_tokens=self._prefill_tokens,
            graphs=deployment.compiled,
        )
        self.startup_s = time.perf_counter() - began
        self.fingerprint: Mapping[str, Any] = {
            **(meter.identity() if meter else {}),
            "cuda": torch.version.cuda,
            "torch": self.version,
            "device": self.device.type,
            "weights": "checkpoint" if isinstance(source, Checkpoint) else "random",
            "rope": settings.rotary.kind,
            "rope_theta": settings.rotary.theta,
            "layers": [len(stage) for stage in self.layout.stages],
            "prefill_tokens": self._prefill_tokens,
            "started": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        }

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[float]:
        """See ``Engine``: greedy tokens, ``max_num_seqs`` sequences at a time.

        On several stages a first token's time is that at which the first stage takes note of it.

        Raises:
            InputError: prompts of several lengths, or more tokens than a sequence or the cache may have.

        """
        firsts: list[float] = []
        began = time.perf_counter()
        for begin in range(0, len(prompts), self._rows):
            waited = time.perf_counter() - began
            seconds = self.tokens(prompts[begin : begin + self._rows], output_len)[1]
            firsts += [waited + each for each in seconds]
        return firsts

    def tokens(
        self, prompts: Sequence[Sequence[int]], output_len: int, watch: Watch | None = None
    ) -> tuple[torch.Tensor, list[float]]:
        """On rank 0: what a batch is continued with, (batch, output_len), and the seconds to each first token.

        ``watch`` sees the logits if the last stage is here too, see ``Pipeline.generate``.
        """
        batch, input_len = len(prompts), len(prompts[0])
        if any(len(prompt) != input_len for prompt in prompts):
            raise InputError("prompts differ in length; a static batch has prompts of one length")
        if input_len + output_len > self.positions:
            raise InputError(f"{input_len + output_len} tokens exceed max_model_len {self.positions}")
        if batch * (input_len + output_len) > self.kv_capacity_tokens:
            raise InputError(
                f"{batch * (input_len + output_len)} tokens exceed the KV capacity {self.kv_capacity_tokens}"
            )
        ids = torch.tensor(prompts, dtype=torch.int64)
        self._tell(GENERATE, batch, input_len, output_len)
        tokens, firsts = self._generate(ids, output_len, watch)
        assert tokens is not None
        return tokens, firsts

    def used_gib(self) -> float:
        """Memory in use on the fullest GPU; on a CPU, the most that its largest process has had."""
        return max(self._reports()[:, 0].tolist()) / GIB

    def comm_bytes(self) -> float:
        """A running count of the bytes sent, mean over the GPUs; see ``Traffic.sent_bytes``."""
        return float(self._reports()[:, 1].mean())

    def energy_j(self) -> float | None:
        return self._meter.energy_j() if self._meter else None

    def follow(self, watch: Watch | None = None) -> None:
        """On the other ranks: do what rank 0 says until it stops."""
        while True:
            kind, batch, input_len, output_len = self._told()
            if kind == STOP:
                return
            if kind == GENERATE:
                self._generate(torch.empty(batch, input_len, dtype=torch.int64), output_len, watch)
            else:
                self._gathered()

    def stop(self) -> None:
        """On rank 0: let the others end."""
        self._tell(STOP)

    def _generate(
        self, ids: torch.Tensor, output_len: int, watch: Watch | None
    ) -> tuple[torch.Tensor | None, list[float]]:
        if not self._alone:
            distributed.broadcast(ids, 0)
        batch, input_len = ids.shape
        result = self._pipeline.generate(
            ids.to(self.device) if self.layout.is_first else None,
            batch=batch,
            input_len=input_len,
            output_len=output_len,
            watch=watch,
        )
        return result.tokens, result.first_s

    @property
    def _alone(self) -> bool:
        return self.layout.tp * self.layout.pp == 1

    def _tell(self, *order: int) -> None:
        if not self._alone:
            distributed.broadcast(torch.tensor((*order, 0, 0, 0)[:4]), 0)

    def _told(self) -> tuple[int, ...]:
        order = torch.empty(4, dtype=torch.int64)
        distributed.broadcast(order, 0)
        return tuple(order.tolist())

    def _reports(self) -> torch.Tensor:
        self._tell(REPORT)
        return self._gathered()

    def _gathered(self) -> torch.Tensor:
        """(GPUs, 2) float64: bytes in use and bytes sent."""
        sent = self._transformer.links.traffic.sent_bytes(self.layout.tp)
        own = torch.tensor([[self._used_bytes(), sent]], dtype=torch.float64)
        if self._alone:
            return own
        gathered = own.new_empty(self.layout.tp * self.layout.pp, 2)
        gather(gathered, own)
        return gathered

    def _used_bytes(self) -> float:
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            return float(total - free)
        # kilobytes, but bytes on a Mac (getrusage(2))
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))

    def _memory(self, tokens: int, *, layers: int) -> CacheMemory:
        return CacheMemory(
            layers=layers,
            tokens=tokens,
            kv_heads=self._transformer.kv_heads,
            head_dim=self.model.head_dim,
            dtype=self._dtype,
            device=self.device,
        )

    def _capacity(self) -> int:
        """Tokens that fit into what the weights and the largest prefill leave of ``gpu_memory_utilization``, on the
        fullest GPU; no more than ``max_num_seqs`` sequences can use.
        """
        share = self.deployment.gpu_memory_utilization
        if self.device.type == "cuda":
            activations = self._activation_bytes()
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(self.device)
            left = share * total - (total - free) - activations
        else:
            processes = self.layout.tp * self.layout.pp
            left = share * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / processes
        each = cache_bytes_per_token(
            layers=len(self.layout.layers),
            kv_heads=self._transformer.kv_heads,
            head_dim=self.model.head_dim,
            dtype=self._dtype,
        )
        tokens = torch.tensor(min(int(left // each), self._rows * self.positions))
        if not self._alone:
            distributed.all_reduce(tokens, distributed.ReduceOp.MIN)
        if tokens < 2:
            raise InputError(
                f"{self.model.name} leaves no memory for KV on tp {self.layout.tp} x pp {self.layout.pp}: "
                f"{max(left, 0) / GIB:.2f} GiB are left of the weights' GPUs; use more GPUs or another dtype"
            )
        return int(tokens)

    def _activation_bytes(self) -> int:
        """What the largest prefill micro-batch takes beside the weights, measured with one layer's cache for all."""
        length = self.positions  # a prompt is never cut
        rows = max(1, self._prefill_tokens // length)
        before = torch.cuda.memory_allocated(self.device)
        memory = self._memory(rows * length, layers=1).divided(rows, length)
        layers = len(self.layout.layers)
        cache = Cache(memory.tensor.expand(layers, *memory.tensor.shape[1:]))
        cache_bytes = torch.cuda.memory_allocated(self.device) - before
        torch.cuda.reset_peak_memory_stats(self.device)
        step = Step(positions=torch.arange(length, device=self.device), context=length)
        shape = (rows, length)
        with torch.inference_mode():
            entering = (
                torch.zeros(shape, dtype=torch.int64, device=self.device)
                if self.layout.is_first
                else torch.zeros(*shape, self.model.hidden_size, dtype=self._dtype, device=self.device)
            )
            counted = self._transformer.links.traffic.copy()
            self._transformer.forward(entering, step, cache)
            self._transformer.links.traffic.restore(counted)
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device) - before - cache_bytes)
