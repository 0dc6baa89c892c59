"""GGUF files: what their headers say, and mixtures that a name says."""

import struct
import time

import pytest

from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.models.gguf_header import BLOCKS, MOST_TENSORS, read_header
from catalog.models.gguf_mixtures import MEANS, PLAIN, mixture_of, with_mixture
from catalog.models.sizes import counted_bytes, parameters

KINDS = {word: number for number, (word, _, _) in BLOCKS.items()}


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def packed(value):
    """Bytes of one metadata value behind its type."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def write(file, metadata, tensors):
    """Write a header without weights; tensors are name, shape with inputs first, and type."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    pairs = b"".join(text(key) + packed(value) for key, value in metadata.items())
    entries = b"".join(
        text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, KINDS[kind], 0)
        for name, shape, kind in tensors
    )
    file.write_bytes(head + pairs + entries)
    return file


def more_bits(layer, layers):
    """Whether Q4_K_M gives a layer's values and down projection more (src/llama-quant.cpp ``use_more_bits``)."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def metadata_of(model, arch, **more):
    common = {
        "general.architecture": arch,
        f"{arch}.block_count": model.num_hidden_layers,
        f"{arch}.context_length": model.max_position_embeddings,
        f"{arch}.embedding_length": model.hidden_size,
        f"{arch}.feed_forward_length": model.intermediate_size,
        f"{arch}.attention.head_count": model.num_attention_heads,
        f"{arch}.attention.head_count_kv": model.num_key_value_heads,
        f"{arch}.attention.key_length": model.head_dim,
        f"{arch}.rope.freq_base": 1e6,
        "tokenizer.ggml.tokens": ["a", "b"] * 50,
    }
    return common | {f"{arch}.{key}": value for key, value in more.items()}


def tensors_of(model, *, norms=("attn_norm", "ffn_norm"), head_norms=False):
    """Tensors of a model in Q4_K_M, as llama.cpp names them."""
    h, layers = model.hidden_size, model.num_hidden_layers
    q, kv = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    wide = "Q6_K" if model.tie_word_embeddings else "Q4_K"
    tensors = [("token_embd.weight", (h, model.vocab_size), wide), ("output_norm.weight", (h,), "F32")]
    if not model.tie_word_embeddings:
        tensors.append(("output.weight", (h, model.vocab_size), "Q6_K"))
    for n in range(layers):
        more = "Q6_K" if more_bits(n, layers) else "Q4_K"
        named = [(norm, (h,), "F32") for norm in norms]
        named += [(f"attn_{x}_norm", (model.head_dim,), "F32") for x in "qk" if head_norms]
        named += [("attn_q", (h, q), "Q4_K"), ("attn_k", (h, kv), "Q4_K"), ("attn_v", (h, kv), more)]
        named += [("attn_output", (q, h), "Q4_K")]
        if model.num_experts:
            count, width = model.num_experts, model.moe_intermediate_size
            named += [("ffn_gate_inp", (h, count), "F32"), ("ffn_down_exps", (width, h, count), more)]
            named += [(f"ffn_{x}_exps", (h, width, count), "Q4_K") for x in ("gate", "up")]
        else:
            width = model.intermediate_size
            named += [("ffn_gate", (h, width), "Q4_K"), ("ffn_up", (h, width), "Q4_K"), ("ffn_down", (width, h), more)]
        tensors += [(f"blk.{n}.{name}.weight", shape, kind) for name, shape, kind in named]
    return tensors


GEMMA_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


@pytest.mark.parametrize(
    ("name", "arch", "more", "options"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", "llama", {}, {}),
        ("Qwen/Qwen3-30B-A3B", "qwen3moe", {"expert_count": 128, "expert_used_count": 8,
                                            "expert_feed_forward_length": 768}, {"head_norms": True}),
        ("mistralai/Mixtral-8x7B-v0.1", "llama", {"expert_count": 8, "expert_used_count": 2}, {}),
        ("google/gemma-3-4b-it", "gemma3", {"attention.sliding_window": 1024},
         {"norms": GEMMA_NORMS, "head_norms": True}),
    ],
)  # fmt: skip
def test_a_file_is_read_like_its_configuration(tmp_path, name, arch, more, options):
    published = find_model(name).value
    tensors = tensors_of(published, **options)
    found = find_model(str(write(tmp_path / "it.Q4_K_M.gguf", metadata_of(published, arch, **more), tensors)))
    model = found.value
    assert not found.notes, "what the tensors hold is what the architecture counts"
    assert parameters(model) == parameters(published)
    assert model.quantization == "int4"
    assert (model.num_key_value_heads, model.head_dim) == (published.num_key_value_heads, published.head_dim)
    assert (model.sliding_window, model.num_windowed_layers) == (
        published.sliding_window,
        published.num_windowed_layers,
    )
    assert counted_bytes(model) == pytest.approx(model.checkpoint_bytes, rel=0.01)
    by_name = with_mixture(published, "q4_k_m").checkpoint_bytes - 2 * published.encoder_parameters
    assert by_name == pytest.approx(model.checkpoint_bytes, rel=0.015)


def test_llama_in_q4_k_m_has_the_size_that_llama_cpp_states(tmp_path):
    model = find_model("meta-llama/Meta-Llama-3.1-8B").value
    file = write(tmp_path / "it.gguf", metadata_of(model, "llama"), tensors_of(model))
    size = sum(tensor.size for tensor in read_header(file).tensors)
    assert 8 * size / parameters(model) == pytest.approx(4.8944, abs=2e-3)
    assert size / 2**30 == pytest.approx(4.58, abs=5e-3)


def test_pieces_count_together_and_a_missing_one_is_named(tmp_path):
    model = find_model("meta-llama/Meta-Llama-3.1-8B").value
    metadata, tensors = metadata_of(model, "llama"), tensors_of(model)
    first = write(tmp_path / "it-00001-of-00002.gguf", metadata, tensors[:100])
    with pytest.raises(InputError, match=r"it-00002-of-00002\.gguf is missing"):
        find_model(str(first))
    write(tmp_path / "it-00002-of-00002.gguf", {"split.no": 1}, tensors[100:])
    assert find_model(str(first)).value.checkpoint_bytes == pytest.approx(4.58 * 2**30, rel=2e-3)


def test_plain_weights_are_no_quantisation(tmp_path):
    model = find_model("Qwen/Qwen3-0.6B").value
    tensors = [
        (name, shape, "BF16" if len(shape) > 1 else "F32") for name, shape, _ in tensors_of(model, head_norms=True)
    ]
    found = find_model(str(write(tmp_path / "it.gguf", metadata_of(model, "qwen3"), tensors))).value
    assert (found.quantization, found.dtype) == (None, "bfloat16")
    assert parameters(found) == parameters(model)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"GGML" + bytes(60), "does not begin like one"),
        (b"GGUF" + struct.pack("<I", 9) + bytes(60), "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, MOST_TENSORS + 1, 0), "would have"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), "more than 128 MB"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**60), "an array of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 2), "an array of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 77), "a value of type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<I", 99), "99 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<IQQIQ", 2, 2**60, 2**60, 12, 0), "of type 12"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.architecture") + packed("llama"), "token_embd"),
    ],
)  # fmt: skip
def test_hostile_headers_are_refused_at_once(tmp_path, data, message):
    (tmp_path / "it.gguf").write_bytes(data)
    begin = time.process_time()
    with pytest.raises(InputError, match=message):
        find_model(str(tmp_path / "it.gguf"))
    assert time.process_time() - begin < 1.0


def test_sizes_by_name_are_those_that_are_published():
    """Files of bartowski and unsloth on the hub, in GB."""
    for name, mixture, size in (
        ("meta-llama/Meta-Llama-3.1-8B", "q4_k_m", 4.92),
        ("meta-llama/Meta-Llama-3.1-70B", "q4_k_m", 42.5),
        ("Qwen/Qwen2.5-7B", "q4_k_m", 4.68),
        ("google/gemma-2-9b", "q4_k_m", 5.76),
        ("openai/gpt-oss-120b", "q4_k_m", 62.8),
        ("Qwen/Qwen3-8B", "q8_0", 8.71),
    ):
        assert with_mixture(find_model(name).value, mixture).checkpoint_bytes / 1e9 == pytest.approx(size, rel=0.01)


def test_wider_mixtures_are_larger():
    model = find_model("meta-llama/Meta-Llama-3.1-8B").value
    for names in (["q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0"], ["iq1_s", "iq2_m", "iq3_m", "iq4_xs"]):
        sizes = [with_mixture(model, name).checkpoint_bytes for name in names]
        assert sizes == sorted(sizes)
    whole = {name: 8 * with_mixture(model, name).checkpoint_bytes / parameters(model) for name in MEANS}
    assert whole == {name: pytest.approx(bits, rel=2e-3) for name, bits in MEANS.items()}


@pytest.mark.parametrize(
    ("text", "mixture"),
    [
        ("gguf", "q4_k_m"),
        ("Q4_K_M", "q4_k_m"),
        ("UD-Q4_K_XL", "q4_k_m"),
        ("Q2_K_L", "q2_k"),
        ("Q3_K_XL", "q3_k_l"),
        ("q8_0-gguf", "q8_0"),
        ("IQ4_XS", "iq4_xs"),
        ("q5-k-m", "q5_k_m"),
        ("Q8_K_XL", "q8_0"),
    ],
)
def test_mixtures_by_their_names(text, mixture):
    assert mixture_of(text) == mixture
    assert mixture in MEANS or mixture in PLAIN
