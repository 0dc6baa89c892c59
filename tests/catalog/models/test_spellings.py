"""What people write for a model is read as it is meant, told, or refused."""

import pytest

from catalog.errors import InputError
from catalog.models.find import find_model
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
        ("unsloth/gpt-oss-20b-GGUF", "openai/gpt-oss-20b", "int4", 0.85),
        ("llama3.1:8b", "meta-llama/Meta-Llama-3.1-8B", None, None),
        ("llama3.1:8b-instruct-q8_0", "meta-llama/Llama-3.1-8B-Instruct", "int8", 0.5),
        ("qwen3:32b", "Qwen/Qwen3-32B", None, None),
        ("lama-13b", "meta-llama/Llama-2-13b-hf", None, None),
        ("llama-3.3-70", "meta-llama/Llama-3.3-70B-Instruct", None, None),
        ("DeepSeek-V3-AWQ", "deepseek-ai/DeepSeek-V3", "int4", None),
    ],
)
def test_readings_are_told(typed, name, quantization, scale_bits):
    found = find_model(typed)
    assert (found.value.quantization, found.value.scale_bits) == (quantization, scale_bits)
    assert found.notes[0].text.startswith(f'"{typed}" read as {name}')
    assert found.value.name == (typed if quantization else name), "an engine loads the checkpoint that was named"


@pytest.mark.parametrize("typed", ["llama-2-14b", "qwen3-33b", "llm", "gpt5", "x" * 90, "some-org-model-fp8"])
def test_what_is_not_sure_is_refused(typed):
    with pytest.raises(InputError, match="unknown model"):
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
