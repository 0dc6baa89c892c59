"""Tables of cosines and sines, as vLLM sizes them."""

import pytest

from catalog.models.find import find_model
from catalog.models.hf_config import model_from_config
from catalog.models.rotary import rotary_numbers
from tests.catalog.models.configs import CONFIGS, DEEPSEEK_V3

LLAMA = CONFIGS["meta-llama/Llama-2-13b-hf"] | {"max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 8192),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 65_536),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 16_384),
        ({"rope_scaling": YARN}, 131_072),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 4096}}, 8192),
        ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096}}, 12_288),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 32_768),
        ({"partial_rotary_factor": 0.5}, 4096),
        ({"rope_local_base_freq": 10_000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 73_728),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                }
            },
            73_728,
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": "eight"}}, 8192),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1e300}}, 8192),
        ({"rope_scaling": {"rope_type": ["x"], "factor": True}}, 8192),
    ],
)
def test_rows_of_a_table(changes, rows):
    assert rotary_numbers(model_from_config(LLAMA | changes, "it")) == rows * 128


def test_latent_attention_rotates_a_part_and_learned_positions_nothing():
    plain = DEEPSEEK_V3 | {"rope_scaling": None, "max_position_embeddings": 4096}
    assert rotary_numbers(model_from_config(plain, "it")) == 4096 * 64
    assert rotary_numbers(find_model("facebook/opt-6.7b").value) == 0


def test_gemma_3_holds_a_table_of_a_million_positions():
    assert rotary_numbers(find_model("google/gemma-3-4b-it").value) == (8 + 1) * 131_072 * 256
