"""Many deployments of one model on one kind of GPU, side by side as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.engines.all_to_all import KERNELS
from catalog.engines.defaults import PLAIN
from catalog.engines.expert_kernels import BLOCKS, HALF, has_untuned_experts
from catalog.engines.registry import engine_family, engine_timing, minor_release
from catalog.errors import InputError
from catalog.schema import BITS, SCALE_BITS, Deployment, Gpu, Model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from catalog.engines import Engine
    from catalog.units import Array

ACTIVATION_BYTES = 2.0
"""Activations are float16 or bfloat16 whatever the weights are."""
FOUR_BIT_BYTES, EIGHT_BIT_BYTES = 0.75, 1.5
"""Bytes of a weight, scales included, below which it counts as one of 4 and of 8 bits."""


def weight_bits(dtype: str, model: Model | None = None) -> float:
    """Return bits one weight of a quantised matrix takes, with its share of scales: the checkpoint's own where ``model`` has some."""
    if model is not None and dtype == model.quantization and model.scale_bits is not None:
        return BITS[dtype] + model.scale_bits
    return BITS[dtype] + SCALE_BITS.get(dtype, 0.0)


def matrix_flops(gpu: Gpu, dtype: str) -> float:
    """Return peak FLOP/s of a matrix product whose weights are in ``dtype``.

    Formats without units of their own are unpacked to 16 bits first (weight-only kernels such as Marlin), so they run at
    the 16-bit peak; float32 without TF32 at 1/16 of it, the ratio of an A100's datasheet (19.5 of 312 TFLOP/s).
    """
    native = {"fp8": gpu.fp8_tflops, "int8": gpu.int8_tops, "nvfp4": gpu.fp4_tflops}.get(dtype, 0.0)
    if dtype == "float32":
        return gpu.fp16_tflops / 16.0 * 1e12
    if dtype == "float16" and gpu.float16_tflops:
        return gpu.float16_tflops * 1e12
    return (native or gpu.fp16_tflops) * 1e12


def checkpoint_dtype(model: Model, gpu: Gpu) -> str:
    """Return the weight format "auto" stands for: the checkpoint's own, and float16 where the GPU lacks bfloat16."""
    if model.quantization:
        return model.quantization
    return "float16" if model.dtype == "bfloat16" and not gpu.bf16 else model.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentArrays:
    """n deployments; every array has shape (n,)."""

    tp: Array
    pp: Array
    dp: Array
    ep: Array
    """GPUs the experts are spread over; 1: they are sliced over ``tp``."""
    dcp: Array
    """GPUs of ``tp`` that share each request's KV cache by its tokens."""
    exchange: Array
    """Place in ``catalog.engines.all_to_all.KERNELS`` of what sends tokens to experts that replicas share."""
    weight_bytes: Array
    """Bytes per weight of the layers' matrices, scales included."""
    block_scales: Array
    """1.0 where a square block of the weights has one scale, as in a checkpoint, else 0.0."""
    untuned: Array
    """1.0 where the engine multiplies experts with default tile sizes (``catalog.engines.expert_kernels``), else 0.0."""
    kv_bytes: Array
    """Bytes per number in the KV cache."""
    matrix_flops: Array
    """Peak FLOP/s of products with those weights."""
    half_flops: Array
    """Peak FLOP/s of 16-bit products (attention, routers, the head)."""
    max_num_seqs: Array
    max_num_batched_tokens: Array
    max_model_len: Array
    gpu_memory_utilization: Array
    """NaN: the engine's own share."""
    offload: Array
    compiled: Array
    """1.0 with kernel fusion, else 0.0."""
    graphs: Array
    """1.0 with CUDA graphs, else 0.0."""
    sequence_parallel: Array
    cache_by_heads: Array
    """1.0 where decode attention reads the KV cache once for each query head (``EngineTiming.reads_cache_by_heads_on``), else 0.0."""
    lora_slots: Array
    """Slots for LoRA adapters; 0 without,"""
    lora_rank: Array
    """and the rank of each."""
    release: Array
    """Minor release of the engine (33.0 of 0.33), 0.0: the one that the catalog describes."""

    @classmethod
    def of(cls, deployments: Sequence[Deployment], model: Model, gpu: Gpu) -> DeploymentArrays:
        """Make arrays of resolved deployments (no knob left None)."""
        columns: dict[str, Any] = {
            knob.name: [getattr(deployment, knob.name) for deployment in deployments] for knob in fields(Deployment)
        }
        columns["graphs"] = [deployment.has_graphs for deployment in deployments]
        return cls.from_columns(columns, model, gpu)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], model: Model, gpu: Gpu) -> DeploymentArrays:
        """Make arrays of columns named like the fields of ``Deployment``; scalars are broadcast. Without ``graphs``, they are on
        where ``compiled`` is.

        Raises:
            InputError: a number format that is not known.

        """
        default = checkpoint_dtype(model, gpu)
        names = {"auto": default}
        dtype = np.atleast_1d(np.asarray(columns.get("dtype", "auto"), dtype=object))
        kv_dtype = np.atleast_1d(np.asarray(columns.get("kv_dtype", "auto"), dtype=object))
        kv_default = default if BITS.get(default, 0) >= 16 else ("bfloat16" if gpu.bf16 else "float16")

        def table(labels: NDArray[np.object_], value: Any, auto: str) -> Array:
            known = {label: auto if label == "auto" else label for label in set(labels.tolist())}
            for label in known.values():
                if label not in BITS:
                    raise InputError(f"dtype {label!r} is not known; it must be one of {', '.join(BITS)} or auto")
            values = {label: value(meaning) for label, meaning in known.items()}
            return np.array([values[label] for label in labels.tolist()], dtype=float)

        numbers = {
            name: np.atleast_1d(np.asarray(columns.get(name, default_value), dtype=float))
            for name, default_value in (
                ("tp", 1),
                ("pp", 1),
                ("dp", 1),
                ("ep", 1),
                ("dcp", 1),
                ("max_num_seqs", 256),
                ("max_num_batched_tokens", 2048),
                ("max_model_len", model.max_position_embeddings),
                ("gpu_memory_utilization", np.nan),
                ("offload", 0.0),
                ("compiled", 1.0),
                ("graphs", columns.get("compiled", 1.0)),
                ("sequence_parallel", 0.0),
            )
        }
        numbers["weight_bytes"] = table(dtype, lambda d: weight_bits(d, model) / 8.0, names["auto"])
        numbers["block_scales"] = table(dtype, lambda d: float(model.block_scales and d == model.quantization), default)
        numbers["untuned"] = _untuned(columns.get("engine", ""), dtype, default, numbers, model, gpu)
        numbers["matrix_flops"] = table(dtype, lambda d: matrix_flops(gpu, d), names["auto"])
        numbers["kv_bytes"] = table(kv_dtype, lambda d: BITS[d] / 8.0, kv_default)
        full = table(dtype, lambda d: matrix_flops(gpu, d if d in PLAIN else "bfloat16"), names["auto"])
        numbers["half_flops"] = full
        adapters = np.atleast_1d(np.asarray(columns.get("adapters"), dtype=object)).tolist()
        numbers["lora_slots"] = np.array([0.0 if each is None else float(each.max_loras) for each in adapters])
        numbers["lora_rank"] = np.array([0.0 if each is None else float(each.rank) for each in adapters])
        backends = np.atleast_1d(np.asarray(columns.get("all2all_backend", ""), dtype=object))
        numbers["exchange"] = np.array([float(KERNELS.index(name)) for name in backends.tolist()])
        versions = np.atleast_1d(np.asarray(columns.get("engine_version", ""), dtype=object))
        numbers["cache_by_heads"] = _cache_by_heads(columns.get("engine", ""), versions, gpu)
        numbers["release"] = np.array([float(minor_release(version)) for version in versions.tolist()])
        return cls(**dict(zip(numbers, np.broadcast_arrays(*numbers.values()), strict=True)))

    @classmethod
    def of_formats(cls, dtypes: Sequence[str], gpu: Gpu) -> DeploymentArrays:
        """Make single GPUs that differ in the weights' format alone, for kernels timed without a model."""
        bits = np.array([weight_bits(dtype) for dtype in dtypes])
        one = np.ones(len(dtypes))
        columns = {column.name: one for column in fields(cls)}
        columns |= dict.fromkeys(
            ("block_scales", "exchange", "untuned", "offload", "sequence_parallel", "cache_by_heads", "release"),
            0.0 * one,
        )
        columns |= {"lora_slots": 0.0 * one, "lora_rank": 0.0 * one}
        columns |= {
            "weight_bytes": bits / 8.0,
            "kv_bytes": one * ACTIVATION_BYTES,
            "matrix_flops": np.array([matrix_flops(gpu, dtype) for dtype in dtypes]),
            "half_flops": one * matrix_flops(gpu, "float16"),
        }
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, rows: NDArray[Any]) -> DeploymentArrays:
        """Return the chosen rows, by index or mask."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.__slots__})

    def memory_share(self, engine: Engine) -> Array:
        """Return ``gpu_memory_utilization``, shape (n,), with the engine's own where it is open; NaN where that depends on more than
        the release ("static" of ``Engine.memory_rule``).
        """
        share = self.gpu_memory_utilization
        if engine.memory_rule == "static" or not np.any(opened := np.isnan(share)):
            return share
        own = np.full(len(self), engine.gpu_memory_utilization)
        for before, earlier in reversed(list(engine.earlier_memory_share.items())):
            own = np.where((self.release > 0) & (self.release < minor_release(before)), earlier, own)
        return np.where(opened, own, share)

    @property
    def gpus(self) -> Array:
        return self.tp * self.pp * self.dp

    @property
    def expert_shards(self) -> Array:
        """Return GPUs the experts' weights are divided over, by slicing or by spreading."""
        return np.where(self.ep > 1, self.ep, self.tp)


def _cache_by_heads(engine: Any, versions: NDArray[np.object_], gpu: Gpu) -> Array:
    """Return the column of that name."""
    engines, of = np.broadcast_arrays(np.atleast_1d(np.asarray(engine, dtype=object)), versions)
    timings = (engine_timing(engine_family(*pair)) for pair in zip(engines.tolist(), of.tolist(), strict=True))
    return np.array([float(gpu.vendor in timing.reads_cache_by_heads_on) for timing in timings])


def _untuned(
    engine: Any, dtype: NDArray[np.object_], default: str, numbers: Mapping[str, Array], model: Model, gpu: Gpu
) -> Array:
    """Return the column of that name; experts are sliced over ``tp`` or spread over ``ep``."""
    if not model.moe_layers:
        return np.zeros(1)
    engines = np.atleast_1d(np.asarray(engine, dtype=object))
    stored = model.part_format("experts")

    @cache
    def of(name: str, label: str, tp: float, ep: float) -> bool:
        weights = kernel_format(stored or (default if label == "auto" else label), model)
        held, width = (model.num_experts / ep, 1.0) if ep > 1 else (model.num_experts, 1.0 / tp)
        return has_untuned_experts(name, gpu, weights, int(held), int(model.moe_intermediate_size * width))

    columns = np.broadcast_arrays(engines, dtype, numbers["tp"], numbers["ep"])
    return np.array([of(*row) for row in zip(*(column.tolist() for column in columns), strict=True)], dtype=float)


def kernel_format(dtype: str, model: Model) -> str:
    """Return a format of weights as tables of tuned kernels name it."""
    if dtype == "fp8" and model.block_scales:
        return BLOCKS
    return HALF if BITS.get(dtype, 0) >= 16 else dtype
