"""What the reader counts of every decoder that Hugging Face transformers knows, against the model that it builds on no device."""

import json
import warnings
from dataclasses import dataclass

import pytest

from catalog.mixers import Recurrence
from catalog.models.hf_config import model_from_config
from catalog.models.sizes import kv_numbers_per_token, parameters
from catalog.models.stack import stack

pytestmark = pytest.mark.slow

ENCODERS = (
    "bert big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta roberta-prelayernorm roc_bert roformer "
    "xlm-roberta xlm-roberta-xl xmod bert-generation"
)
HALVES = (
    "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr whisper florence2 kosmos-2 "
    "kosmos-2.5 t5gemma2 pp_formulanet vision-encoder-decoder udop pix2struct blip git evolla idefics pi0"
)
NO_DECODERS = (
    dict.fromkeys(ENCODERS.split(), "an encoder that can be run as a decoder")
    | dict.fromkeys(HALVES.split(), "attends to an encoder's output, or captions images with a model of before 2024")
    | dict.fromkeys(
        ["cpmant", "ctrl", "openai-gpt", "xlm", "xlnet", "reformer"], "of before 2023, and no engine serves it"
    )
    | dict.fromkeys(
        ["musicgen", "musicgen_melody", "moshi", "kyutai_speech_to_text", "emu3", "chameleon"], "makes sound or images"
    )
    | {
        "blt": "works on bytes, in three transformers",
        "diffusion_gemma": "fills in text in no order",
        "longcat_flash": "transformers holds weights for experts that compute nothing",
    }
)
INCOMPLETE = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8, "head_dim": 128},
}
"""Fields that the defaults of a type lack."""
UNBUILT = {
    "aya_vision", "cohere_compass", "cohere_compass_text", "dbrx", "deepseek_ocr2", "fast_vlm", "gemma3n", "gemma4_assistant",
    "granite4_vision", "hunyuan_vl", "perception_lm", "qwen3_omni_moe", "qwen4_exp", "qwen4_exp_text",
}  # fmt: skip
"""Types whose defaults transformers cannot build a model of, or only with further packages."""
WRAPPERS = ("text_config", "llm_config", "thinker_config")
LANGUAGE = (
    "thinker.model.language_model",
    "thinker.model",
    "model.language_model",
    "language_model",
    "model.text_model",
)
OTHER_CACHES = {
    "deepseek_v4": "its first tokens are within the window, which is not compressed",
}
OTHER_STATES = {
    "minimax": "keeps its states in a cache of another kind",
    "zaya": "keeps the last token's values as a state",
}


@dataclass
class Family:
    """One type: what transformers counts, and what the reader does."""

    kind: str
    total: int
    ours: object
    cached: int | None = None
    states: int | None = None
    told: str = ""


def build(kind, transformers, torch):
    """Build the model of a type's defaults on the meta device; return its language model, its head's weights and the configuration."""
    from transformers.models.auto import configuration_auto, modeling_auto

    config = configuration_auto.CONFIG_MAPPING[kind](**INCOMPLETE.get(kind, {}))
    stored = json.loads(config.to_json_string(use_diff=False))
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    other = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    other = other or modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(kind)
    name = (other or causal) if any(key in stored for key in WRAPPERS) else (causal or other)
    name = name[0] if isinstance(name, tuple | list) else name
    with torch.device("meta"):
        return getattr(transformers, name)._from_config(config), stored


def language_model(model):
    """Return the part of ``model`` that is the decoder, and the weights of it and of the head."""
    inner = model
    for path in LANGUAGE:
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if part is not None:
            inner = part
            break
    held = {id(each): each for name, each in inner.named_parameters() if "vision" not in name and "_extend" not in name}
    held |= {id(each): each for name, each in model.named_parameters() if "lm_head" in name and "talker" not in name}
    return inner, sum(each.numel() for each in held.values())


def cache_of(model, torch):
    """Return the numbers that four tokens leave in the cache: those of one token, and the recurrent state."""
    tokens = torch.ones((1, 4), dtype=torch.long, device="meta")
    with torch.no_grad():
        output = model(input_ids=tokens, use_cache=True, position_ids=torch.arange(4, device="meta")[None])
    cached = states = 0
    for layer in output.past_key_values.layers:
        keys, state = getattr(layer, "keys", None), getattr(layer, "recurrent_states", None)
        if keys is not None:
            cached += sum(each.shape[1] * each.shape[-1] for each in (keys, layer.values))
        if isinstance(state, dict):
            state = next(iter(state.values()), None)
        if state is not None:
            states += state.numel()
    return cached, states


@pytest.fixture(scope="module")
def families():
    """Every type of decoder that can be built, read and built."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from transformers.models.auto import modeling_auto

    transformers.logging.set_verbosity_error()
    causal = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    kinds = causal | set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    kinds |= set(modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
    found, usual = [], torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # grouped products are written for it alone
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for kind in sorted(kinds - set(NO_DECODERS) - UNBUILT):
                model, stored = build(kind, transformers, torch)
                inner, total = language_model(model)
                family = Family(kind, total, model_from_config(stored, kind))
                found.append(family)
                if inner is model and kind in causal:
                    try:
                        family.cached, family.states = cache_of(model, torch)
                    except Exception as error:  # noqa: BLE001  routing and the like have no values on no device
                        family.told = f"{type(error).__name__}: {error}"
    finally:
        torch.set_default_dtype(usual)
    return found


def test_parameters_are_those_of_the_model_that_is_built(families):
    far = {each.kind: parameters(each.ours) / each.total - 1 for each in families}
    assert {kind: f"{share:+.2%}" for kind, share in far.items() if abs(share) > 0.01} == {}
    assert len(far) > 220
    assert sum(abs(share) < 1e-4 for share in far.values()) > 200


def test_types_that_are_built_are_known_but_for_a_few(families):
    """A type that nobody entered is read all the same, with a warning."""
    unknown = sorted(each.kind for each in families if each.ours.reading)
    assert len(unknown) < 12, unknown


def test_a_token_caches_what_the_model_caches(families):
    run = [each for each in families if each.cached is not None and each.kind not in OTHER_CACHES]
    wrong = {each.kind: (kv_numbers_per_token(each.ours), each.cached) for each in run}
    assert {kind: pair for kind, pair in wrong.items() if pair[0] != pair[1]} == {}
    assert len(run) > 120


def test_a_sequence_keeps_the_state_that_the_model_keeps(families):
    run = [each for each in families if each.states and each.kind not in OTHER_STATES]
    wrong = {}
    for each in run:
        counts = stack(each.ours).counts
        ours = sum(
            n * part.state_numbers for n, layer in counts for part in layer.mixers if isinstance(part, Recurrence)
        )
        if ours != each.states:
            wrong[each.kind] = (ours, each.states)
    assert wrong == {}
    assert len(run) > 10
