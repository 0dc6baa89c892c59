"""The formats of a checkpoint: of its weights, part by part, of their scales, and of the KV cache it has scales for.

Read from ``quantization_config`` of ``config.json`` and from ``hf_quant_config.json`` beside it, as every current method
states them.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from catalog.parts import Experts
from catalog.schema import BITS, OUTSIDE, PARTS, SCALE_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from catalog.config_fields import Fields
    from catalog.parts import Stack

PLAIN = "plain"
"""Said of a part that is not quantised."""

METHODS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "ptpc_fp8": "fp8",
    "finegrained_fp8": "fp8",
    "deepspeedfp": "fp8",
    "mxfp8": "fp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "modelopt_fp4": "nvfp4",
    "modelopt_mxfp8": "fp8",
    "marlin": "int4",
    "gptq_marlin_24": "int4",
    "petit_nvfp4": "nvfp4",
    "eetq": "int8",
    "experts_int8": "int8",
    "tpu_int8": "int8",
    "w8a8_int8": "int8",
    "blockwise_int8": "int8",
}
"""Methods that have one format."""

ALGORITHMS = (
    ("NVFP4", "nvfp4"),
    ("MXFP4", "mxfp4"),
    ("MXFP8", "fp8"),
    ("FP8", "fp8"),
    ("W4A16", "int4"),
    ("W4A8", "int4"),
    ("INT4", "int4"),
    ("W8A16", "int8"),
    ("W8A8", "int8"),
    ("INT8", "int8"),
)
"""Formats by what the names of ModelOpt's algorithms hold; the first that one holds counts."""

INTEGERS = (
    "awq",
    "gptq",
    "awq_marlin",
    "gptq_marlin",
    "auto_round",
    "auto-round",
    "intel/auto-round",
    "hqq",
    "hqq_marlin",
    "moe_wna16",
    "qqq",
    "sinq",
)
"""Methods with integers of ``bits`` bits in groups."""

TOTALS = ("exl2", "exl3")
"""Methods whose ``bits`` are a mean over all weights, scales included."""

WORDED = ("quark", "torchao", "quanto", "fp_quant")
"""Methods whose settings are words."""
FLOATS = {"mx_fp": "mxfp4", "nv_fp": "nvfp4", "fp": "fp8"}
"""What AutoRound's ``data_type`` says of numbers that are no integers, the first that it begins with."""

OTHERS = ("aqlm", "bitnet", "bitsandbytes", "compressed-tensors", "modelopt")
NARROW_BITS = 6.0
"""Mean bits up to which weights are taken for 4-bit ones with long scales."""

SCALE = 16.0
"""Bits of a scale of integers; a zero point takes as many as a number."""

DIGITS = re.compile(r"\d+")
LAYER = re.compile(r"layers\.(\d{1,5})\.?(.*)")
SAFE = re.compile(r"[\w\s.\\*|()^$\[\]+-]{1,200}")
"""Regular expressions that are looked at: short, and without braces or groups that repeat."""
REPEATED = re.compile(r"\)[*+?]|[*+?]{2}|(?:\*.*){6}")

NAMES = {
    "attention": (
        "self_attn.q_proj",
        "self_attn.o_proj",
        "linear_attn.in_proj_qkv",
        "linear_attn.out_proj",
        "mixer.in_proj",
        "mixer.q_proj",
        "attn.wq_b",
    ),
    "dense": ("mlp.down_proj", "mlp.up_proj", "mixer.up_proj", "feed_forward.down_proj"),
    "shared": (
        "mlp.shared_experts.down_proj",
        "mlp.shared_expert.down_proj",
        "mlp.down_proj",
        "mixer.shared_experts.down_proj",
        "ffn.shared_experts.w1",
    ),
    "experts": (
        "mlp.experts.0.down_proj",
        "block_sparse_moe.experts.0.w1",
        "mixer.experts.0.down_proj",
        "ffn.experts.0.w1",
    ),
}
"""What modules of each part are called, after the layer's number."""
MOST_PATTERNS = 100
"""More patterns that hold for all layers than any checkpoint has."""
PREFIXES = ("model.layers", "model.language_model.layers", "language_model.model.layers", "backbone.layers", "layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """Of a quantised checkpoint."""

    weights: str | None = None
    """The format of most weights, a key of ``BITS``; None: they are not quantised."""
    parts: tuple[tuple[str, str], ...] = ()
    """Parts in another format, 16-bit ones under ``PLAIN``."""
    scale_bits: float | None = None
    """Bits of scales and zero points a weight; None: the format's usual ones."""
    kv_cache: str | None = None


def read_formats(c: Fields, stack: Stack) -> Formats:
    """Read one ``quantization_config``, or the object that ``hf_quant_config.json`` holds.

    Raises:
        InputError: a method or a number of bits that is not known.

    """
    method = c.text("quant_method", default="").lower()
    kv = _kv_cache(c)
    listed = _listed(c)
    if listed:
        most = Counter(form for form, _ in listed.values()).most_common(1)[0][0]
        weights = listed.get("experts", listed.get("dense", (most, None)))[0]
        parts = {part: form for part, (form, _) in listed.items() if form != weights or part in OUTSIDE}
        return _formats(c, stack, weights, kv, parts, plain=METHODS.get(method, PLAIN))
    if c.has("quant_algo") and c.text("quant_algo").upper() not in ("MIXED_PRECISION", "NONE"):
        return _formats(c, stack, _algorithm(c, c.text("quant_algo")), kv)
    if method in METHODS:
        parts = {"experts": "mxfp4"} if c.text("expert_dtype", default="") == "fp4" else {}
        return _formats(c, stack, METHODS[method], kv, parts)
    if method in INTEGERS or (not method and c.has("bits")):
        form, scales = _grouped(c)
        head = {"head": form} if c.has("lm_head") and c.flag("lm_head", default=False) else {}
        return _formats(c, stack, form, kv, head, scale_bits=scales)
    if (bits := _mean_bits(c, method)) is not None:
        form = "int4" if bits <= NARROW_BITS else "int8"
        return _formats(c, stack, form, kv, scale_bits=bits - BITS[form])
    if method == "bitsandbytes":
        return _bitsandbytes(c, stack, kv)
    if method == "compressed-tensors" or c.has("config_groups"):
        return _compressed(c, stack, kv)
    if method in WORDED:
        return _formats(c, stack, _worded(c, method), kv)
    known = ", ".join(sorted({*METHODS, *INTEGERS, *TOTALS, *WORDED, *OTHERS}))
    raise c.error(f"quant_method {method[:50]!r} is not known; known: {known}")


def _formats(
    c: Fields,
    stack: Stack,
    weights: str | None,
    kv: str | None = None,
    parts: Mapping[str, str] | None = None,
    *,
    scale_bits: float | None = None,
    plain: str = PLAIN,
) -> Formats:
    """Put together the formats; what a checkpoint leaves out of quantisation follows part by part.

    ``plain``: the format of what is left out, 8-bit floats where some layers of such a checkpoint were quantised further.
    """
    if weights is None:
        return Formats(kv_cache=kv)
    formats = dict.fromkeys(_plain_parts(c, stack), plain) | dict(parts or {})
    present = _present(stack)
    if set(formats) >= set(present) and plain in formats.values():
        # names that many modules share; what is quantised is the largest part
        formats.pop("experts" if "experts" in present else "dense", None)
    return Formats(weights=weights, parts=tuple(sorted(formats.items())), scale_bits=scale_bits, kv_cache=kv)


def _present(stack: Stack) -> list[str]:
    """List the parts that a model has."""
    blocks = [layer.feed_forward for layer in stack.kinds if layer.feed_forward is not None]
    routed = [block for block in blocks if isinstance(block, Experts)]
    held = {"attention": True, "experts": bool(routed), "shared": any(block.shared for block in routed)}
    held["dense"] = len(routed) < len(blocks)
    return [part for part in PARTS if held.get(part)]


def _kv_cache(c: Fields) -> str | None:
    """Return the format that the checkpoint has scales of the KV cache for."""
    if c.is_text("kv_cache_quant_algo") or c.is_text("kv_cache_scheme"):
        said = c.text("kv_cache_quant_algo", "kv_cache_scheme").upper()
        return next((form for form in ("nvfp4", "fp8", "int8") if form.upper() in said), None)
    scheme = c.maybe_part("kv_cache_scheme") if c.has("kv_cache_scheme") else None
    if scheme is None:
        return None
    bits = scheme.whole("num_bits", default=8)
    if scheme.text("type", default="float") == "float":
        return "fp8" if bits == 8 else "nvfp4"
    return f"int{bits}" if bits in (4, 8) else None


def _algorithm(c: Fields, name: str) -> str:
    """Return the format of one of ModelOpt's algorithms."""
    inside = next((form for word, form in ALGORITHMS if word in name.upper()), None)
    if inside is None:
        raise c.error(f"quant_algo {name[:50]!r} is not known; known: {', '.join(word for word, _ in ALGORITHMS)}")
    return inside


def _integers(c: Fields, *names: str, zero_points: bool) -> tuple[str, float | None]:
    """Return the format of integers and the bits of their scales, over which odd widths are stored, too."""
    bits = c.whole(*names, least=2, most=8)
    form = "int4" if bits <= 4 else "int8"
    group = c.first("group_size", "q_group_size", default=128) if not c.negative("group_size") else 0
    scales = (SCALE + bits * zero_points) / group if group else 0.0
    extra = bits - BITS[form] + scales
    usual = SCALE_BITS.get(form, 0.0)
    return form, None if abs(extra - usual) < 1e-9 else extra


def _grouped(c: Fields) -> tuple[str, float | None]:
    """Return the format of integers in groups, wherever a method keeps their bits, and the bits of their scales."""
    said = c.text("data_type", default="int").lower()
    number = next((form for word, form in FLOATS.items() if said.startswith(word)), None)
    if number is not None:
        return number, None
    for name in ("quant_config", "weight_quant_params"):  # HQQ keeps them two objects down
        c = c.maybe_object(name) or c
    return _integers(c, "bits", "nbits", "wbits", zero_points=True)


def _mean_bits(c: Fields, method: str) -> float | None:
    """Return the mean bits of a weight where a method says nothing else, scales included."""
    if method in TOTALS:
        return c.number("bits", most=8)
    if method == "bitnet":
        return 2.0  # three values, four to a byte (arXiv 2402.17764)
    if method == "aqlm":  # codes of additive codebooks (arXiv 2401.06118)
        numbers = c.size("in_group_size", default=8) * c.size("out_group_size", default=1)
        return c.size("num_codebooks", most=16) * c.size("nbits_per_codebook", most=32) / numbers
    return None


def _bitsandbytes(c: Fields, stack: Stack, kv: str | None) -> Formats:
    """Read bitsandbytes' own: 4 bits with a float32 scale for 64, itself quantised where ``double_quant`` says so, or int8."""
    if c.flag("load_in_4bit", "_load_in_4bit", default=False):
        double = c.flag("bnb_4bit_use_double_quant", default=False)
        return _formats(c, stack, "int4", kv, scale_bits=8 / 64 + 32 / (64 * 256) if double else 32 / 64)
    eight = c.flag("load_in_8bit", "_load_in_8bit", default=False)
    return _formats(c, stack, "int8" if eight else None, kv)


WEIGHT_WORDS = re.compile(r"(int4|int8|float8|nvfp4|mxfp4)weight")


def _worded(c: Fields, method: str) -> str:
    """Return the format of methods whose settings are words."""
    words = c.words().lower()
    if (named := WEIGHT_WORDS.search(words)) is not None:  # torchao names activations before weights
        words = named[1]
    for word, form in (
        ("nvfp4", "nvfp4"),
        ("mxfp4", "mxfp4"),
        ("mx_fp4", "mxfp4"),
        ("fp4", "mxfp4"),
        ("fp8", "fp8"),
        ("float8", "fp8"),
        ("int4", "int4"),
        ("int8", "int8"),
    ):
        if word in words:
            return form
    raise c.error(f"the weights' format of {method} is not known; known: fp8, int8, int4, mxfp4 and nvfp4")


def _compressed(c: Fields, stack: Stack, kv: str | None) -> Formats:
    """Read the groups of compressed-tensors; of several each says which modules it is for."""
    groups = c.maybe_part("config_groups")
    if groups is None:
        raise c.error("config_groups is missing")
    by_part: dict[str, str] = {}
    whole: str | None = None
    bits: float | None = None
    for name in groups.names():
        group = groups.part(name)
        weights = group.maybe_part("weights")
        if weights is None:
            continue
        form, scales = _weights(weights)
        targets = [target for target in group.items_of("targets") if "." in target]
        votes = Counter(part for target in targets if (part := part_of(target)))
        if not targets:
            whole, bits = form, scales
        for part in votes:
            by_part[part] = form
    if whole is None and by_part:
        whole = by_part.get("experts", by_part.get("dense", next(iter(by_part.values()))))
    parts = {part: form for part, form in by_part.items() if form != whole}
    return _formats(c, stack, whole, kv, parts, scale_bits=bits)


def _weights(weights: Fields) -> tuple[str, float | None]:
    if weights.text("type", default="int") == "int":
        if weights.has("group_size") and weights.whole("num_bits", default=4) <= 4:
            return _integers(weights, "num_bits", zero_points=not weights.flag("symmetric", default=True))
        return weights.integer_format("num_bits"), None
    bits = weights.whole("num_bits")
    if bits not in (4, 8):
        raise weights.error(f"floats of {bits} bits are not known; known: 4 and 8")
    small = "mxfp4" if weights.whole("group_size", default=16, null=16) == 32 else "nvfp4"
    return ("fp8" if bits == 8 else small), None


def _listed(c: Fields) -> dict[str, tuple[str, int]]:
    """Return each part's commonest format where a checkpoint lists its modules (ModelOpt's ``quantized_layers``)."""
    listed = c.maybe_part("quantized_layers")
    if listed is None:
        return {}
    votes: dict[str, Counter[str]] = {}
    for name in listed.names():
        part = part_of(DIGITS.sub("0", name))
        if part:
            votes.setdefault(part, Counter())[listed.part(name).text("quant_algo", default="")] += 1
    if not votes:
        return {}
    most = {part: counter.most_common(1)[0] for part, counter in votes.items()}
    return {part: (_algorithm(c, name), count) for part, (name, count) in most.items()}


@lru_cache(maxsize=4096)
def part_of(name: str) -> str:
    """Return the part that a module's name belongs to, or "" (tables, heads, towers, routers)."""
    if name == "lm_head":
        return "head"
    if re.search(r"vision|visual|audio|mtp|lm_head|embed|router|indexer|\.gate$", name):
        return ""
    if "shared_expert" in name:
        return "shared"
    if "experts" in name:
        return "experts"
    if re.search(r"attn|attention|in_proj|out_proj|conv|mixer\.[qkvo]_proj", name):
        return "attention"
    return "dense" if re.search(r"mlp|ffn|feed_forward|mixer|_proj", name) else ""


def _plain_parts(c: Fields, stack: Stack) -> list[str]:
    """List the parts of which a checkpoint leaves most layers alone."""
    ignored = [
        text
        for name in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude")
        for text in c.items_of(name)
    ]
    if not ignored:
        return []
    everywhere, by_layer = _sorted(ignored)
    parts = []
    for part in _present(stack):
        held = [number for number in range(len(stack.pattern)) if _holds(stack, number, part)]
        names = [f"{prefix}.1.{name}" for prefix in PREFIXES for name in NAMES[part]]
        if any(_matches(pattern, name) for pattern in everywhere for name in names) or 2 * sum(
            _is_ignored(part, by_layer.get(number, frozenset())) for number in held
        ) > len(held):
            parts.append(part)
    return parts


def _holds(stack: Stack, number: int, part: str) -> bool:
    layer = stack.kinds[stack.pattern[number]]
    if part == "attention":
        return bool(layer.mixers)
    return layer.feed_forward is not None and isinstance(layer.feed_forward, Experts) == (part != "dense")


def _sorted(ignored: Iterable[str]) -> tuple[list[str], dict[int, frozenset[str]]]:
    """Sort patterns: those that name no layer, and of each layer what stands behind its number."""
    everywhere: dict[str, None] = {}
    by_layer: dict[int, set[str]] = {}
    for text in ignored:
        number = LAYER.search(text)
        if number:
            by_layer.setdefault(int(number[1]), set()).add(number[2])
        elif len(everywhere) < MOST_PATTERNS:
            everywhere[text] = None
    return list(everywhere), {number: frozenset(tails) for number, tails in by_layer.items()}


@lru_cache(maxsize=4096)
def _is_ignored(part: str, tails: frozenset[str]) -> bool:
    """Say whether a pattern of a layer, without what stands before and its number, is one of a part's modules."""
    return any(_matches(tail, name) for tail in tails for name in NAMES[part])


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        text = pattern[3:]
        if not SAFE.fullmatch(text) or REPEATED.search(text):
            return False
        try:
            return re.match(text, name) is not None
        except re.error:
            return False
    if not pattern or "*" in pattern:
        return len(pattern) < 200 and pattern.count("*") < 6 and fnmatch.fnmatchcase(name, pattern)
    return name.startswith(pattern + ".") or name == pattern or f".{pattern}." in name
