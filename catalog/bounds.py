"""Which models and GPUs are possible: bounds on every number, and the numbers' consistency with each other.

The bounds stand beside the fields (``catalog.schema``); files are held to them by ``catalog.borders``, which needs pydantic.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from annotated_types import Interval

from catalog.errors import InputError
from catalog.schema import BITS

if TYPE_CHECKING:
    from catalog.schema import Gpu, Model


@cache
def bounds_of(kind: Any) -> dict[str, Interval]:
    """Return what the numbers of a dataclass can be, by field, as its annotations say."""
    return {
        name: extra
        for name, hint in get_type_hints(kind, include_extras=True).items()
        for part in (hint, *get_args(hint))  # a number, or a number or None
        for extra in getattr(part, "__metadata__", ())
        if isinstance(extra, Interval)
    }


def in_words(bounds: Interval) -> str:
    """Return what a number within ``bounds`` is, for messages."""
    least, most = bounds.ge if bounds.gt is None else bounds.gt, bounds.le
    if bounds.gt is None:
        return f"from {least:g} to {most:g}" if most is not None else f"at least {least:g}"
    return f"above {least:g}" + (f" and at most {most:g}" if most is not None else "")


def check_bounds(thing: Any, where: str) -> None:
    """Hold a dataclass to the bounds in its annotations.

    Raises:
        InputError: naming ``where``, the first number outside of them and what it can be.

    """
    for name, bounds in bounds_of(thing.__class__).items():
        value = getattr(thing, name)
        if value is not None and not _within(value, bounds):
            raise InputError(f"{where}: {name} is {value!r:.40}; it must be {in_words(bounds)}")


def _within(value: float, bounds: Interval) -> bool:
    least, above, most = (getattr(bounds, name) for name in ("ge", "gt", "le"))
    return (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)


def check_model(model: Model) -> Model:
    """Return the model itself.

    Raises:
        InputError: a number is out of its bounds or contradicts another.

    """
    where = model.name
    check_bounds(model, where)
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    if heads % kv_heads:
        raise InputError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if model.dtype not in ("bfloat16", "float16", "float32"):
        raise InputError(f"{where}: dtype is {model.dtype!r}; it must be bfloat16, float16 or float32")
    if model.quantization is not None and BITS.get(model.quantization, 16) >= 16:
        low = ", ".join(name for name, bits in BITS.items() if bits < 16)
        raise InputError(f"{where}: quantization is {model.quantization!r}; it must be one of {low}")
    if model.attention == "mla":
        parts = model.qk_nope_head_dim + model.qk_rope_head_dim
        if not (model.kv_lora_rank and model.v_head_dim) or model.head_dim != parts:
            raise InputError(
                f"{where}: MLA needs kv_lora_rank, v_head_dim and head_dim = qk_nope_head_dim + qk_rope_head_dim = {parts}"
            )
    if model.num_experts and not (0 < model.num_experts_per_tok <= model.num_experts and model.moe_intermediate_size):
        raise InputError(
            f"{where}: {model.num_experts} experts need num_experts_per_tok from 1 to {model.num_experts} "
            f"and a moe_intermediate_size"
        )
    layers = model.num_hidden_layers
    if model.num_windowed_layers > layers or model.first_dense_layers > layers:
        raise InputError(f"{where}: num_windowed_layers and first_dense_layers must be at most its {layers} layers")
    if bool(model.sliding_window) != bool(model.num_windowed_layers):
        raise InputError(f"{where}: sliding_window and num_windowed_layers go together; give both or neither")
    return model


def check_gpu(gpu: Gpu) -> Gpu:
    """Return the GPU itself.

    Raises:
        InputError: a number is out of its bounds or contradicts another.

    """
    check_bounds(gpu, gpu.name)
    if gpu.topology in ("nvswitch", "mesh", "pairs") and not gpu.nvlink_gbps:
        raise InputError(f"{gpu.name}: topology {gpu.topology!r} needs nvlink_gbps above 0; without links it is 'pcie'")
    return gpu
