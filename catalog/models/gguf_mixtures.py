"""llama.cpp's mixtures of formats (Q4_K_M and kin): bits of layers, head and embedding table, where a name alone says which."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.models.quantization import NARROW_BITS
from catalog.models.sizes import embedding_parameters, head_parameters, parameters
from catalog.models.stack import stack
from catalog.schema import BITS

if TYPE_CHECKING:
    from catalog.schema import Model

MEANS = {
    "iq1_s": 2.0042,
    "iq1_m": 2.1460,
    "iq2_xxs": 2.3824,
    "iq2_xs": 2.5882,
    "iq2_s": 2.7403,
    "iq2_m": 2.9294,
    "iq3_xxs": 3.2548,
    "iq3_xs": 3.4977,
    "iq3_s": 3.6606,
    "iq3_m": 3.7628,
    "iq4_xs": 4.4597,
    "iq4_nl": 4.6818,
    "q2_k_s": 2.9697,
    "q2_k": 3.1593,
    "q3_k_s": 3.6429,
    "q3_k_m": 3.9960,
    "q3_k_l": 4.2979,
    "q4_k_s": 4.6672,
    "q4_k_m": 4.8944,
    "q5_k_s": 5.5704,
    "q5_k_m": 5.7036,
}
"""Bits a weight of a whole Llama-3.1-8B (ggml-org/llama.cpp tools/quantize/README.md @311c2c9f)."""
PLAIN = {"q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q6_k": 6.5625, "q8_0": 8.5}
"""Bits a weight of layers that are all in one format."""
TABLES = {
    "iq1": 2.625,
    "iq2": 2.625,
    "iq3": 3.4375,
    "iq4": 4.25,
    "q2": 2.625,
    "q3": 3.4375,
    "q4": 4.5,
    "q5": 5.5,
    "q6": 6.5625,
    "q8": 8.5,
}
"""Bits a weight of the embedding table, by how a mixture's name begins: its plain format, Q2_K for the narrowest (src/llama-quant.cpp)."""
HEAD, HEAD_NARROW, HEAD_WIDE = 6.5625, 5.5, 8.5
"""The same of the head: Q6_K, Q5_K of the narrowest, Q8_0 of Q8_0. A tied one is the table, too."""
LLAMA_LAYERS, LLAMA_TABLE = 6.9797e9, 0.5253e9
"""Weights of Llama-3.1-8B in its layers, and in its head and its table each."""
USUAL = "q4_k_m"
"""What a repository of GGUF files is taken for where no file of it is named."""
EXPERTS_BITS = 4.25
"""Bits a weight of experts that were published in MXFP4, which every mixture leaves as they are."""


def mixture_of(text: str) -> str:
    """Return the mixture, a key of ``MEANS`` or ``PLAIN``, that a part of a name means: "UD-Q4_K_XL", "q8_0-gguf", "gguf"."""
    word = re.sub(r"[-.]", "_", text.casefold()).removeprefix("ud_").removesuffix("gguf").strip("_")
    if not word:
        return USUAL
    stem = re.sub(r"_(xl|l)$", "", word)
    for candidate in (word, f"{stem}_l", f"{word}_m", f"{stem}_m", stem, f"{stem[:2]}_0", f"{stem[:2]}_k"):
        if candidate in MEANS or candidate in PLAIN:
            return candidate
    return USUAL


def with_mixture(model: Model, mixture: str) -> Model:
    """Return the model in a mixture, with the bytes that its file has."""
    begin = mixture.partition("_")[0]
    table = TABLES[begin]
    head = HEAD_NARROW if begin in ("iq1", "iq2") else HEAD_WIDE if begin == "q8" else HEAD
    layers = PLAIN.get(mixture) or _layer_bits(MEANS[mixture], head + table)
    if model.tie_word_embeddings:
        table = max(head, table)
    routed = sum(count * layer.routed_elements(model.hidden_size) for count, layer in stack(model).counts)
    experts, outside = layers, {"embedding": table, "head": head}
    form, scales = _nearest(layers), layers - BITS[_nearest(layers)]
    if model.quantization == "mxfp4" and routed:
        experts, outside = EXPERTS_BITS, outside | {"attention": layers}
    tables = embedding_parameters(model)
    bits = routed * experts + tables * table + head_parameters(model) * head
    bits += (parameters(model) - routed - tables - head_parameters(model)) * layers
    kept = experts != layers
    return replace(
        model,
        quantization="mxfp4" if kept else form,
        formats=tuple(sorted((part, _nearest(width)) for part, width in outside.items())),
        part_bits=tuple(sorted(outside.items())),
        scale_bits=None if kept else scales,
        checkpoint_bytes=round(bits / 8.0 + 2.0 * model.encoder_parameters),
    )


def _layer_bits(whole: float, tables: float) -> float:
    """Return the mean bits of Llama-3.1-8B's layers, given those of the whole and of its head and table together."""
    return (whole * (LLAMA_LAYERS + 2.0 * LLAMA_TABLE) - tables * LLAMA_TABLE) / LLAMA_LAYERS


def _nearest(bits: float) -> str:
    return "int4" if bits <= NARROW_BITS else "int8"
