"""The plain-PyTorch engine: one process a GPU, of which the first receives what to run and sends it to the others."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed
from torch.nn import functional

from catalog.engines.torch_layout import lay_out
from catalog.errors import InputError
from catalog.units import GIB
from probes.checkpoint import Checkpoint
from probes.gpu_telemetry import Meter
from probes.static_benchmark import OutOfMemory
from probes.torch_engine.fused_kernels import LayerKernels, fused_kernels
from probes.torch_engine.graphs import check_graphs
from probes.torch_engine.kv_cache import CacheMemory, cache_bytes_per_token
from probes.torch_engine.links import Links, gather
from probes.torch_engine.memory import PARTS, cache_memory, give_back, memory_parts, prefill_bytes, rehearse, together
from probes.torch_engine.model_settings import check_runs, memory_share, read_settings
from probes.torch_engine.offload import offloaded_layers
from probes.torch_engine.pipeline import Generated, Pipeline
from probes.torch_engine.plain_reference import reference_logits
from probes.torch_engine.transformer import Transformer
from probes.torch_engine.weight_sources import source_of
from probes.torch_engine.weights import read_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from catalog.schema import Deployment, Model
    from probes.torch_engine.model_settings import Settings
    from probes.torch_engine.pipeline import Watch
    from probes.torch_engine.weight_sources import Source

T = TypeVar("T")
PREFILL_TOKENS = 8192
"""Tokens of a prefill micro-batch where the deployment names no ``max_num_batched_tokens``: vLLM's for a server."""

MAX_SEQUENCES = 256
"""Sequences at once where the deployment names no ``max_num_seqs``: vLLM's."""

STOP, GENERATE, REPORT, PREPARE, TAKE, SHOW, PARTS_OF_MEMORY = range(7)
"""What rank 0 tells the others to do, with up to three numbers."""


class TorchEngine:
    """One process's part of a model in plain PyTorch, and on rank 0 an ``Engine`` (see ``probes.static_benchmark``).

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
        """Load the weights from ``source``; without one from safetensors beside the ``config.json`` that the model was
        read from, or else they are random. ``costs`` are those of the layers and the head, see ``lay_out``; ``meter``
        is that of all GPUs, for rank 0.

        Raises:
            InputError: the model cannot be run so, or its checkpoint is unusable.
            OutOfMemory: its weights, or not one sequence beside them, fit the GPU; on all processes alike.

        """
        began = time.perf_counter()
        self.device = torch.device(device)
        _check(model, deployment, self.device)
        self.model, self.deployment, self.meter = model, deployment, meter or Meter(())
        self._context_bytes = self._used_bytes()
        self.running: tuple[int, int, int] | None = None
        """(batch, input_len, output_len) while a batch is run, on every process."""
        self._tried: list[tuple[int, int]] = []
        self._dtype = getattr(torch, model.dtype if deployment.dtype == "auto" else deployment.dtype)
        self.positions = deployment.max_model_len or model.max_position_embeddings
        self._rows = deployment.max_num_seqs or MAX_SEQUENCES
        self.layout = lay_out(model, tp=deployment.tp, pp=deployment.pp, rank=rank, costs=costs)
        settings = read_settings(model)
        self._source = source or source_of(model, self.device)
        offloaded = offloaded_layers(model.num_hidden_layers, deployment.offload)
        weights = self._together(
            lambda: read_weights(
                model, self.layout, self._source, dtype=self._dtype, device=self.device, offloaded=offloaded
            ),
            f"the weights of {model.name}",
        )
        self.weight_bytes = weights.nbytes()
        self._transformer = Transformer(
            model,
            settings,
            self.layout,
            weights,
            Links(self.layout, dtype=self._dtype, device=self.device),
            positions=self.positions,
            kernels=fused_kernels(self.device.type) if deployment.compiled else LayerKernels(),
        )
        self._prefill_tokens = deployment.max_num_batched_tokens or PREFILL_TOKENS
        self.kv_capacity_tokens = self._capacity()
        self._pipeline = Pipeline(
            self._transformer,
            self._together(lambda: self._memory(self.kv_capacity_tokens), f"KV for {self.kv_capacity_tokens} tokens"),
            positions=self.positions,
            prefill_tokens=self._prefill_tokens,
            graphs=deployment.has_graphs,
        )
        self._forget_peak()
        self.startup_s = time.perf_counter() - began
        self.fingerprint: Mapping[str, Any] = self._fingerprint(settings, offloaded)

    def _fingerprint(self, settings: Settings, offloaded: frozenset[int]) -> dict[str, Any]:
        """Return what times depend on beside the load; ``offloaded`` are the layers in the host's memory."""
        return {
            **self.meter.identity(),
            "cuda": torch.version.cuda,
            "torch": self.version,
            "device": self.device.type,
            "weights": "checkpoint" if isinstance(self._source, Checkpoint) else "random",
            "rope": settings.rotary.kind,
            "rope_theta": settings.rotary.theta,
            "layers": [len(stage) for stage in self.layout.stages],
            "offloaded": [len(offloaded & set(stage)) for stage in self.layout.stages],
            "prefill_tokens": self._prefill_tokens,
            "started": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        }

    def prepare(self, batch: int, input_len: int) -> None:
        """See ``Engine``: processes try the memory without talking, unless they have tried more, then agree; and decode
        steps are recorded.
        """
        rows = min(batch, self._rows)
        if not self._alone and not any(rows <= more and input_len <= longer for more, longer in self._tried):
            self._tell(PREPARE, rows, input_len)
            self._rehearse(rows, input_len)
            self._tried.append((rows, input_len))
        if rows * 4 <= self.kv_capacity_tokens and self.positions >= 4:
            self.tokens([[0, 0]] * rows, 2)

    def take(self, batch: int, input_len: int, output_len: int) -> None:
        """Replace the KV memory by one for this batch alone, and try it as ``prepare`` does.

        From then on ``kv_capacity_tokens`` are those of this batch; there are none if it does not run.

        Raises:
            InputError: more tokens than a sequence may have.
            OutOfMemory: it does not run.

        """
        if input_len + output_len > self.positions:
            raise InputError(f"{input_len + output_len} tokens exceed max_model_len {self.positions}")
        self._tell(TAKE, batch, input_len, output_len)
        self._take(batch, input_len, output_len)

    def logits(self, ids: np.ndarray, input_len: int) -> np.ndarray:
        """Return, on rank 0, what the deployment makes of sequences ``ids``, (sequences, length), whose tokens after
        the first ``input_len`` are fed to its decode steps one by one: float32 logits (sequences, length - input_len,
        vocabulary), the first after the prompt.
        """
        rows, length = ids.shape
        self._tell(SHOW, rows, input_len, length - input_len)
        return self._show(torch.tensor(ids, dtype=torch.int64), input_len).numpy()

    def reference(self, ids: np.ndarray, input_len: int) -> np.ndarray:
        """Return, on rank 0 alone, the same by the plainest run, see ``reference_logits``.

        Raises:
            OutOfMemory: it does not fit beside the deployment.

        """
        inputs = torch.tensor(ids, dtype=torch.int64, device=self.device)
        logits = together(
            lambda: reference_logits(self.model, self._source, inputs, dtype=self._dtype),
            self.device,
            alone=True,
            what="the reference",
        )
        self._forget_peak()
        return logits[:, input_len - 1 : -1].numpy()

    def memory(self) -> list[dict[str, float]]:
        """Return, on rank 0, GiB by part, see ``PARTS``, on each GPU."""
        self._tell(PARTS_OF_MEMORY)
        return [dict(zip(PARTS, row, strict=True)) for row in self._parts().tolist()]

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
            firsts += [waited + second for second in seconds]
        return firsts

    def tokens(
        self, prompts: Sequence[Sequence[int]], output_len: int, watch: Watch | None = None
    ) -> tuple[torch.Tensor, list[float]]:
        """Return, on rank 0, what a batch is continued with, (batch, output_len), and the seconds to each first token.

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
        """Return GiB in use on the fullest GPU; on a CPU, the most that its largest process has had."""
        return max(self._reports()[:, 0].tolist()) / GIB

    def comm_bytes(self) -> float:
        """Return a running count of the bytes sent, mean over the GPUs; see ``Traffic.sent_bytes``."""
        return float(self._reports()[:, 1].mean())

    def host_bytes(self) -> float:
        """Return a running count of the bytes of offloaded layers copied to the device, mean over the GPUs."""
        return float(self._reports()[:, 2].mean())

    def follow(self, watch: Watch | None = None) -> None:
        """Do, on the other ranks, what rank 0 says until it stops."""
        while True:
            kind, batch, input_len, output_len = self._told()
            if kind == STOP:
                return
            with suppress(OutOfMemory):  # rank 0 tells it
                if kind == GENERATE:
                    self._generate(torch.empty(batch, input_len, dtype=torch.int64), output_len, watch)
                elif kind == PREPARE:
                    self._rehearse(batch, input_len)
                elif kind == TAKE:
                    self._take(batch, input_len, output_len)
                elif kind == SHOW:
                    self._show(torch.empty(batch, input_len + output_len, dtype=torch.int64), input_len)
                elif kind == PARTS_OF_MEMORY:
                    self._parts()
                else:
                    self._reported()

    def stop(self) -> None:
        """Let, on rank 0, the others end."""
        self._tell(STOP)

    def _generate(
        self, ids: torch.Tensor, output_len: int, watch: Watch | None
    ) -> tuple[torch.Tensor | None, list[float]]:
        if not self._alone:
            distributed.broadcast(ids, 0)
        batch, input_len = ids.shape

        def work() -> Generated:
            return self._pipeline.generate(
                ids.to(self.device) if self.layout.is_first else None,
                batch=batch,
                input_len=input_len,
                output_len=output_len,
                watch=watch,
            )

        self.running = (batch, input_len, output_len)
        # several processes cannot agree any more once they talk: there, running out of memory ends them
        result = (
            self._together(work, f"{batch} sequences of {input_len + output_len} tokens") if self._alone else work()
        )
        self.running = None
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
        return self._reported()

    def _reported(self) -> torch.Tensor:
        """Return (GPUs, 3) float64: bytes in use, bytes sent, and bytes copied from the host's memory."""
        traffic = self._transformer.links.traffic
        return self._gathered(self._used_bytes(), traffic.sent_bytes(self.layout.tp), traffic.payload["host"])

    def _parts(self) -> torch.Tensor:
        """Return (GPUs, parts) float64: GiB, in the order of ``PARTS``."""
        parts = memory_parts(
            self.device,
            context=self._context_bytes,
            share=memory_share(self.deployment),
            weight_bytes=self.weight_bytes,
            kv_bytes=self._pipeline.memory.nbytes(),
        )
        return self._gathered(*(parts[name] for name in PARTS))

    def _gathered(self, *values: float) -> torch.Tensor:
        """Return (GPUs, values) float64: those of every process."""
        own = torch.tensor([values], dtype=torch.float64)
        if self._alone:
            return own
        gathered = own.new_empty(self.layout.tp * self.layout.pp, len(values))
        gather(gathered, own)
        return gathered

    def _forget_peak(self) -> None:
        give_back(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _together(self, work: Callable[[], T], what: str) -> T:
        return together(work, self.device, alone=self._alone, what=what)

    def _rehearse(self, batch: int, input_len: int) -> None:
        self._together(
            lambda: rehearse(self._pipeline, batch, input_len), f"{batch} sequences with prompts of {input_len} tokens"
        )

    def _take(self, batch: int, input_len: int, output_len: int) -> None:
        tokens = batch * (input_len + output_len)
        self._pipeline.use(self._memory(0))
        self._forget_peak()
        self.kv_capacity_tokens = 0

        def work() -> None:
            self._pipeline.use(self._memory(tokens))
            rehearse(self._pipeline, batch, input_len)

        try:
            self._together(work, f"{batch} sequences of {input_len + output_len} tokens")
        except OutOfMemory:
            self._pipeline.use(self._memory(0))
            give_back(self.device)
            raise
        self.kv_capacity_tokens, self._rows = tokens, max(self._rows, batch)
        self._tried = [(batch, input_len)]

    def _show(self, ids: torch.Tensor, input_len: int) -> torch.Tensor:
        rows, steps = ids.shape[0], ids.shape[1] - input_len
        shown = torch.empty(rows, steps, self.model.vocab_size)
        if not self._alone:
            distributed.broadcast(ids, 0)
        ids = ids.to(self.device)
        self._pipeline.generate(
            ids[:, :input_len],
            batch=rows,
            input_len=input_len,
            output_len=steps,
            watch=lambda which, number, logits: shown[which.start : which.stop, number].copy_(logits),
            forced=ids[:, input_len:],
        )
        if not self._alone:
            distributed.broadcast(shown, self.layout.tp * (self.layout.pp - 1))
        return shown

    def _used_bytes(self) -> float:
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            return float(total - free)
        # kilobytes, but bytes on a Mac (getrusage(2))
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))

    def _memory(self, tokens: int) -> CacheMemory:
        return cache_memory(self._transformer, tokens)

    def _capacity(self) -> int:
        """Return the tokens that fit into what the weights and the largest prefill leave of ``gpu_memory_utilization``,
        on the fullest GPU; no more than ``max_num_seqs`` sequences can use.
        """
        share = memory_share(self.deployment)
        if self.device.type == "cuda":
            # NCCL takes its memory when first used; then, without it, what prefill takes
            self._transformer.links.all_gather(torch.zeros(1, 1, dtype=self._dtype, device=self.device))
            activations = self._together(
                lambda: prefill_bytes(self._transformer, self.positions, self._prefill_tokens),
                "the largest prefill micro-batch",
            )
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(self.device)
            left = share * total - (total - free) - activations
        else:
            processes = self.layout.tp * self.layout.pp
            left = share * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / processes
        bytes_per_token = cache_bytes_per_token(
            layers=len(self.layout.layers),
            kv_heads=self._transformer.kv_heads,
            head_dim=self.model.head_dim,
            dtype=self._dtype,
        )
        tokens = torch.tensor(min(int(left // bytes_per_token), self._rows * self.positions))
        if not self._alone:
            distributed.all_reduce(tokens, distributed.ReduceOp.MIN)
        if tokens < 2:
            raise OutOfMemory(
                f"{self.model.name} leaves no memory for KV on tp {self.layout.tp} x pp {self.layout.pp}: "
                f"{max(left, 0) / GIB:.2f} GiB are left of the weights' GPUs; use more GPUs or another dtype"
            )
        return int(tokens)


def _check(model: Model, deployment: Deployment, device: torch.device) -> None:
    """Raise ``InputError`` where the deployment, or this torch, cannot run the model on the device."""
    check_runs(model, deployment, device=device.type)
    if deployment.has_graphs:
        check_graphs()
    if model.num_experts and not hasattr(functional, "grouped_mm"):
        raise InputError(f"torch {torch.__version__} has no grouped_mm, which experts need; install a newer one")
