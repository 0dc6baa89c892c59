"""What people write for a model is read as it is meant, told, or refused."""

import re

import pytest

from catalog.errors import InputError
from catalog.models.find import find_model, parameters
from catalog.models.spellings import is_one_slip


@pytest.mark.parametrize(
    ("typed", "name", "quantization", "scale_bits"),
    [
        ("Qwen/Qwen3-235B-A22B-FP8", "Qwen/Qwen3-235B-A22B", "fp8", None),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "meta-llama/Meta-Llama-3.1-8B-Instruct", "int4", None),
        (
            "neuralmagic/Meta-Llama-3.1-8B-Instruct-quantized.w8a8",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "int8",
            None,
        ),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "meta-llama/Llama-3.3-70B-Instruct", "nvfp4", None),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "meta-llama/Llama-3.3-70B-Instruct", "fp8", None),
        ("unsloth/gpt-oss-20b-GGUF", "openai/gpt-oss-20b", "mxfp4", None),
        ("llama3.1:8b", "meta-llama/Meta-Llama-3.1-8B", None, None),
        ("llama3.1:8b-instruct-q8_0", "meta-llama/Llama-3.1-8B-Instruct", "int8", 0.5),
        ("qwen3:32b", "Qwen/Qwen3-32B", None, None),
        ("lama-13b", "meta-llama/Llama-2-13b-hf", None, None),
        ("llama-3.3-70", "meta-llama/Llama-3.3-70B-Instruct", None, None),
        ("qwen3-235b", "Qwen/Qwen3-235B-A22B", None, None),
        ("R1-Distill-Llama-70B", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", None, None),
        ("DeepSeek-V3-AWQ", "deepseek-ai/DeepSeek-V3", "int4", None),
    ],
)
def test_readings_are_told(typed, name, quantization, scale_bits):
    found = find_model(typed)
    assert (found.value.quantization, found.value.scale_bits) == (quantization, scale_bits)
    assert found.notes[0].text.startswith(f'"{typed}" read as {name}')
    file = ":Q4_K_M" if typed.endswith("-GGUF") else ""
    loaded = typed + file if quantization else name
    assert found.value.name == loaded, "an engine loads the checkpoint that was named, of GGUF files the one predicted"
    assert find_model(loaded).value == found.value


AS_PEOPLE_TYPE_THEM = {
    "": """
        deepseek-ai/DeepSeek-R1-Distill-Llama-8B deepseek-ai/DeepSeek-R1-Distill-Qwen-32B deepseek-ai/DeepSeek-R1-0528-Qwen3-8B
        Qwen/QwQ-32B Qwen/Qwen3-30B-A3B-Instruct-2507 Qwen/Qwen3-Coder-30B-A3B-Instruct Qwen/Qwen3-4B-Instruct-2507
        Qwen/Qwen2.5-Coder-32B-Instruct Qwen/Qwen2.5-VL-7B-Instruct meta-llama/Llama-3.1-8B-Instruct meta-llama/Llama-3.2-3B-Instruct
        nvidia/Llama-3_3-Nemotron-Super-49B-v1_5 nvidia/Llama-3.1-Nemotron-Nano-8B-v1 mistralai/Mistral-7B-Instruct-v0.2
        mistralai/Mistral-Small-24B-Instruct-2501 mistralai/Mixtral-8x22B-Instruct-v0.1 google/gemma-3n-E4B-it google/gemma-2-9b-it
        microsoft/Phi-4-reasoning microsoft/Phi-4-multimodal-instruct zai-org/GLM-4.6 zai-org/GLM-4.7 zai-org/GLM-4.7-Flash
        zai-org/GLM-5.2 NousResearch/Hermes-3-Llama-3.1-8B lmsys/vicuna-13b-v1.5 tiiuae/Falcon3-7B-Instruct
        internlm/internlm3-8b-instruct TinyLlama/TinyLlama-1.1B-Chat-v1.0 CohereLabs/aya-expanse-8b Qwen/Qwen2-57B-A14B-Instruct
        databricks/dbrx-instruct bigcode/starcoder Zyphra/Zamba2-7B-Instruct google/recurrentgemma-9b-it llama3.3:70b
        llama3.2:3b deepseek-r1:32b deepseek-r1:70b deepseek-r1:8b qwen3:30b-a3b qwen2.5-coder:32b gemma3:27b mistral:7b
        mixtral:8x7b phi4:14b mistral-nemo qwq qwq:32b
    """,
    "fp8": """
        deepseek-ai/DeepSeek-R1-0528 deepseek-ai/DeepSeek-V3.1 Qwen/Qwen3-32B-FP8 Qwen/Qwen3-235B-A22B-Instruct-2507-FP8
        Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 Qwen/Qwen3.6-35B-A3B-FP8 meta-llama/Llama-3.1-405B-Instruct-FP8
        nvidia/Llama-3.1-8B-Instruct-FP8 RedHatAI/Qwen3-32B-FP8-dynamic zai-org/GLM-4.6-FP8 moonshotai/Kimi-K2-Instruct-0905
        MiniMaxAI/MiniMax-M2.7 stepfun-ai/Step-3.7-Flash-FP8 llama-3.1-8b-instruct-fp8
    """,
    "int8": "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8",
    "int4": """
        Qwen/Qwen3-32B-AWQ Qwen/Qwen3-30B-A3B-GPTQ-Int4 Qwen/Qwen2.5-Coder-7B-Instruct-AWQ Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4
        RedHatAI/Llama-3.3-70B-Instruct-quantized.w4a16 hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4
        unsloth/Llama-3.3-70B-Instruct-bnb-4bit unsloth/DeepSeek-R1-GGUF bartowski/Llama-3.3-70B-Instruct-GGUF
        TheBloke/Llama-2-13B-chat-AWQ TheBloke/Mistral-7B-Instruct-v0.2-GPTQ google/gemma-3-27b-it-qat-q4_0-gguf
        moonshotai/Kimi-K2-Thinking llama3.1:8b-instruct-q4_K_M qwen2.5:7b-instruct-q4_K_M gemma3:4b-it-qat
        casperhansen/llama-3.3-70b-instruct-awq cyankiwi/Qwen3-30B-A3B-Instruct-2507-AWQ-4bit Intel/Qwen3-32B-int4-AutoRound
    """,
    "nvfp4": """
        nvidia/Llama-3.3-70B-Instruct-FP4 nvidia/DeepSeek-R1-0528-FP4 nvidia/DeepSeek-V3.1-NVFP4 nvidia/Qwen3-32B-NVFP4
        RedHatAI/Mistral-Small-3.2-24B-Instruct-2506-NVFP4 nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4
    """,
    "mxfp4": "gpt-oss:20b gpt-oss:120b moonshotai/Kimi-K3 Qwen3-32B-MXFP4 amd/Llama-3.3-70B-Instruct-MXFP4-Preview",
}
"""Ids and tags of 2023 to 2026, by the format that they are in."""


@pytest.mark.parametrize(
    ("typed", "form"), [(typed, form) for form, ids in AS_PEOPLE_TYPE_THEM.items() for typed in ids.split()]
)
def test_ids_as_people_type_them(typed, form):
    """Whatever is typed is a model's own name, or the reading is told."""
    found = find_model(typed)
    assert (found.value.quantization or "") == form
    size = re.search(r"(?<![e.\d])(\d+(?:\.\d+)?)b(?![a-z])", typed.lower())
    if size and "x" not in typed.lower():
        total = parameters(found.value) + found.value.encoder_parameters
        assert total == pytest.approx(float(size[1]) * 1e9, rel=0.25)
    if typed.endswith(("FP8", "AWQ", "Int4", "NVFP4", "GGUF", "MXFP4")):
        assert found.notes[0].text.startswith(f'"{typed}" read as ')


def test_a_dense_model_in_mxfp4_has_all_of_its_products_in_it():
    assert find_model("Qwen3-32B-MXFP4").value.part_format("attention") == ""
    assert find_model("gpt-oss-20b").value.part_format("attention") == "bfloat16"


@pytest.mark.parametrize(
    "typed", ["llama-2-14b", "llama3", "llama-8b-instruct", "qwen3-33b", "llm", "gpt5", "x" * 90, "some-org-model-fp8"]
)
def test_what_is_not_sure_is_refused(typed):
    with pytest.raises(InputError, match="unknown model"):
        find_model(typed)


@pytest.mark.parametrize("typed", ["bge-m3", "e5-large", "nomic-embed-text", "Qwen3-Reranker", "all-MiniLM"])
def test_what_embeds_text_is_not_modelled(typed):
    with pytest.raises(InputError, match="embeds or ranks text"):
        find_model(typed)


@pytest.mark.parametrize(
    ("typed", "meant", "is_slip"),
    [
        ("lama13b", "llama13b", True),
        ("mixtrall8x7b", "mixtral8x7b", True),
        ("mitxral8x7b", "mixtral8x7b", True),
        ("qwen", "qwen", False),
        ("llama27b", "llama13b", False),
        ("llama14b", "llama13b", False),
        ("lmaa13b", "llama13b", False),
    ],
)
def test_one_slip(typed, meant, is_slip):
    assert is_one_slip(typed, meant) == is_slip


def test_a_guess_is_a_warning_and_a_name_is_none():
    """Every answer shows warnings; a model that was guessed from a slip would else be answered for unseen."""
    assert [note.kind for note in find_model("lama-13b").notes] == ["warning"]
    assert all(note.kind == "note" for note in find_model("llama-13b").notes)


def test_a_name_without_the_word_for_its_tuning_is_no_guess():
    (note,) = find_model("qwen2.5-vl-7b").notes
    assert (note.kind, "Qwen/Qwen2.5-VL-7B-Instruct" in note.text) == ("note", True)
