"""Options of training: what is trained, its layout, and the tokens it is trained on."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.evidence import PRICE
from advisor.cli.options.layout import DP, DTYPE, EP, PP, TP
from catalog.quantities import AMOUNT, COUNT

LAYOUT = "Layout"
TRAINING = "Training"


@group(LAYOUT)
class TrainingDegrees:
    """A layout; what is not stated is searched."""

    tensor_parallel_size: Annotated[int | None, TP] = None
    """GPUs that split each layer."""
    pipeline_parallel_size: Annotated[int | None, PP] = None
    """Stages of layers."""
    data_parallel_size: Annotated[int | None, DP] = None
    """Replicas.  [default: all GPUs that are left]"""
    context_parallel_size: Annotated[int | None, flag("--context-parallel-size", "--cp", metavar="N")] = None
    """GPUs that share each sequence."""
    expert_parallel_size: Annotated[int | None, EP] = None
    """GPUs that the routed experts are spread over."""
    micro_batch: Annotated[int | None, flag("--micro-batch", metavar="N")] = None
    """Sequences of a micro-batch.  [default: the fastest that fits]"""
    interleave: Annotated[int | None, flag("--interleave", metavar="N")] = None
    """Chunks of layers per stage (interleaved schedule).  [default: the fastest that fits]"""
    recompute: Annotated[str, flag("--recompute", metavar="WHAT")] = "auto"
    """Activations to recompute: none, selective (the core of attention), full, or auto."""
    sequence_parallel: Annotated[bool | None, flag("--sequence-parallel/--no-sequence-parallel")] = None
    """Slice norms and dropout along the sequence.  [default: with tensor parallelism]"""
    zero: Annotated[int | None, flag("--zero", metavar="STAGE")] = None
    """What is sharded over replicas: 1 optimizer states, 2 also gradients, 3 also weights (FSDP)."""

    @property
    def stated(self) -> bool:
        """Whether a degree is stated, so that the rest is not searched."""
        return any((self.tensor_parallel_size, self.pipeline_parallel_size, self.context_parallel_size))

    def keywords(self) -> dict[str, Any]:
        """Return them as the Python API takes them; degrees that are not stated are left out."""
        degrees = {
            "tp": self.tensor_parallel_size,
            "pp": self.pipeline_parallel_size,
            "dp": self.data_parallel_size,
            "cp": self.context_parallel_size,
            "ep": self.expert_parallel_size,
        }
        return {name: degree for name, degree in degrees.items() if degree is not None} | {
            "micro_batch": self.micro_batch,
            "interleave": self.interleave,
            "recompute": self.recompute.strip().casefold(),
            "sequence_parallel": self.sequence_parallel,
            "zero": self.zero,
        }


@group(TRAINING)
class TrainingQuestion:
    """What is trained, and for how long."""

    batch: Annotated[int, flag("--batch", metavar="N", quantity=COUNT)]
    """Sequences per step, over all replicas."""
    sequence_length: Annotated[int | None, flag("--seq-len", "--sequence-length", metavar="N", quantity=COUNT)] = None
    """Tokens of a sequence.  [default: the model's positions, at most 4096]"""
    tokens: Annotated[float | None, flag("--tokens", metavar="N", quantity=AMOUNT)] = None
    """Tokens to train on, for days, cost and energy: 300B, 1.5T."""
    precision: Annotated[str, DTYPE] = "bf16"
    """Precision of products: bf16, fp8 or fp4 (NVFP4)."""
    framework: Annotated[str, flag("--framework", metavar="NAME")] = "auto"
    """megatron-core, nemo, fsdp, deepspeed, megatron-lm; auto tries megatron-core and fsdp."""
    schedule: Annotated[str, flag("--schedule", metavar="NAME")] = "1f1b"
    """1f1b or gpipe."""
    lora_rank: Annotated[int, flag("--lora-rank", metavar="N")] = 0
    """Train only low-rank adapters of this rank; 0: all weights."""
    offload: Annotated[bool, flag("--offload")] = False
    """Keep the optimizer's states in CPU memory (ZeRO-Offload)."""
    price: Annotated[float | None, PRICE] = None
    """Dollars per GPU-hour.  [default: the cheapest on-demand offer in the catalog]"""

    def keywords(self) -> dict[str, Any]:
        """Return them as the Python API takes them."""
        return {
            "batch": self.batch,
            "sequence_length": self.sequence_length,
            "tokens": self.tokens,
            "precision": self.precision.strip().casefold(),
            "framework": self.framework,
            "schedule": self.schedule.strip().casefold(),
            "lora_rank": self.lora_rank,
            "offload": self.offload,
            "price": self.price,
        }
