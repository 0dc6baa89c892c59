"""The catalog's models: names lead to one meaning, counts agree with what publishers state, every row has a source."""

import pytest

from catalog.errors import InputError, Note
from catalog.models.find import active_parameters, all_models, find_model, parameters
from catalog.names import squash
from catalog.tables import table

MODELS = {model.name: model for model in all_models()}
PUBLISHED = [model for model in MODELS.values() if model.published_parameters]


def kv_values_per_token(model):
    """Numbers that one token leaves in the KV cache, by hand from the definition of each kind of attention."""
    if model.attention == "mla":
        return model.num_hidden_layers * (model.kv_lora_rank + model.qk_rope_head_dim)
    return model.num_hidden_layers * model.num_key_value_heads * (model.head_dim + model.value_dim)


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_counts_agree_with_the_published_ones(model):
    counted = parameters(model)
    if "vision encoder included" in model.published_source:
        counted += model.encoder_parameters
    assert counted == pytest.approx(model.published_parameters, rel=5e-3)


def test_most_models_have_a_published_count_and_most_of_those_agree_to_the_last_digit():
    assert len(MODELS) >= 240
    assert len(PUBLISHED) >= 195
    exact = [m for m in PUBLISHED if m.published_parameters in (parameters(m), parameters(m) + m.encoder_parameters)]
    assert len(exact) >= 100


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # a layer: 4 x 5120^2 attention, 3 x 5120 x 13824 feed-forward, 2 x 5120 norms; embedding, head, last norm
        ("meta-llama/Llama-2-13b-hf", 40 * (4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120) + 2 * 32000 * 5120 + 5120),
        # 4 KV heads of 128, biases on q, k and v
        (
            "Qwen/Qwen2.5-7B",
            28 * (2 * 3584**2 + 2 * 3584 * 512 + 3584 + 1024 + 3 * 3584 * 18944 + 2 * 3584) + 2 * 152064 * 3584 + 3584,
        ),
        # 8 experts and a router in place of the feed-forward
        (
            "mistralai/Mixtral-8x7B-v0.1",
            32 * (2 * 4096**2 + 2 * 4096 * 1024 + 8 * 3 * 4096 * 14336 + 8 * 4096 + 2 * 4096) + 2 * 32000 * 4096 + 4096,
        ),
        # latent attention without a query rank; first layer dense, then 64 routed and 2 shared experts
        (
            "deepseek-ai/DeepSeek-V2-Lite",
            27 * (2048 * 16 * 192 + 2048 * 576 + 512 + 512 * 16 * 256 + 16 * 128 * 2048 + 2 * 2048)
            + 3 * 2048 * 10944
            + 26 * (66 * 3 * 2048 * 1408 + 64 * 2048)
            + 2 * 102400 * 2048
            + 2048,
        ),
        # 4 norms a layer, tied embedding
        (
            "google/gemma-2-2b",
            26 * (2 * 2304 * 2048 + 2 * 2304 * 1024 + 3 * 2304 * 9216 + 4 * 2304) + 256000 * 2304 + 2304,
        ),
        # biases everywhere, 2050 positions, tied
        (
            "facebook/opt-6.7b",
            32 * (4 * (4096**2 + 4096) + 2 * 4096 * 16384 + 16384 + 4096 + 4 * 4096) + (50272 + 2050 + 2) * 4096,
        ),
    ],
)
def test_counts_by_hand(name, count):
    assert parameters(MODELS[name]) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", 12.9e9),  # arXiv 2401.04088: "uses 13B active parameters", 12.9B in its table
        ("Qwen/Qwen3-235B-A22B", 22e9),
        ("deepseek-ai/DeepSeek-V3", 37e9),
        ("moonshotai/Kimi-K2-Instruct", 32e9),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 17e9),
    ],
)
def test_active_counts_are_near_the_rounded_ones_in_papers(name, count):
    assert active_parameters(MODELS[name]) == pytest.approx(count, rel=0.03)


def test_active_is_all_for_dense_models():
    for model in MODELS.values():
        assert 0 < active_parameters(model) <= parameters(model)
        assert (active_parameters(model) == parameters(model) - model.table_parameters) == (model.num_experts == 0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llama-13b", 40 * 2 * 5120),
        ("meta-llama/Meta-Llama-3.1-8B", 32 * 2 * 8 * 128),
        ("tiiuae/falcon-7b", 32 * 2 * 64),
        ("Qwen/Qwen3-30B-A3B", 48 * 2 * 4 * 128),
        ("deepseek-ai/DeepSeek-V3", 61 * (512 + 64)),
        ("google/gemma-3-27b-it", 62 * 2 * 16 * 128),
        ("openai/gpt-oss-120b", 36 * 2 * 8 * 64),
    ],
)
def test_kv_cache_by_hand(name, values):
    assert kv_values_per_token(find_model(name).value) == values


@pytest.mark.parametrize(
    ("name", "window", "layers"),
    [
        ("mistralai/Mistral-7B-v0.1", 4096, 32),
        ("google/gemma-2-9b", 4096, 21),
        ("google/gemma-3-1b-it", 512, 22),
        ("google/gemma-3-27b-it", 1024, 52),
        ("openai/gpt-oss-120b", 128, 18),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 8192, 36),
        ("meta-llama/Meta-Llama-3.1-8B", 0, 0),
    ],
)
def test_windows(name, window, layers):
    assert (MODELS[name].sliding_window, MODELS[name].num_windowed_layers) == (window, layers)


def test_every_model_has_a_source():
    for model in MODELS.values():
        assert model.source, model.name
        assert bool(model.published_parameters) == bool(model.published_source), model.name


def test_names_round_trip():
    for name in MODELS:
        found = find_model(name)
        assert (found.value.name, found.notes) == (name, ())


def test_every_spelling_leads_to_one_entry():
    """No two entries share a name, bar the ambiguous ones, which say how they are read."""
    entries = table("models").entries.values()
    ambiguous = [squash(name) for entry in entries for name in entry.ambiguous]
    assert len(set(ambiguous)) == len(ambiguous)
    seen = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases, *entry.variants):
            for spelling in {squash(name), squash(name.rpartition("/")[2])} - set(ambiguous):
                assert seen.setdefault(spelling, entry.name) == entry.name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("llama-13b", "meta-llama/Llama-2-13b-hf"),
        ("Llama 13B", "meta-llama/Llama-2-13b-hf"),
        ("mixtral", "mistralai/Mixtral-8x7B-v0.1"),
    ],
)
def test_ambiguous_names_say_how_they_are_read(typed, name):
    found = find_model(typed)
    assert found.value.name == name
    assert found.notes == (Note(f'"{typed}" read as {name}'),)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("llama-2-13b", "meta-llama/Llama-2-13b-hf"),
        ("llama2_13b", "meta-llama/Llama-2-13b-hf"),
        ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B"),
        ("meta-llama/llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama-1-13b", "huggyllama/llama-13b"),
        ("huggyllama/llama-13b", "huggyllama/llama-13b"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("DeepSeek-R1", "deepseek-ai/DeepSeek-R1"),
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("gemma-3-27b", "google/gemma-3-27b-it"),
    ],
)
def test_clear_names_need_no_note(typed, name):
    found = find_model(typed)
    assert (found.value.name, found.notes) == (name, ())


def test_instruct_models_have_their_own_context():
    assert find_model("Qwen/Qwen2.5-7B").value.max_position_embeddings == 131_072
    assert find_model("Qwen/Qwen2.5-7B-Instruct").value.max_position_embeddings == 32_768


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("llama-31b", "closest: .*[Ll]lama"),
        ("mixtrallle", "Mixtral-8x7B"),
        ("zzzz", "advisor catalog"),
        ("", "no model named"),
        ("   ", "no model named"),
        (None, "no model named"),
        ("a" * 10_000, "unknown model"),
        ("bad\0name", "unknown model"),
        ("/no/such/config.json", "cannot read"),
    ],
)
def test_unknown_models_are_one_line(typed, words):
    with pytest.raises(InputError, match=words) as caught:
        find_model(typed)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_licences():
    assert find_model("llama-13b").value.gated
    assert not find_model("mixtral").value.gated
