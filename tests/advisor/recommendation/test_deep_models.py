"""A configuration of a thousand layers is answered like any other."""

import json
import time

import pytest

import advisor

DEEP = {
    "model_type": "qwen3_moe", "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "mlp_only_layers": [], "moe_intermediate_size": 768, "num_attention_heads": 32,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 1000, "num_key_value_heads": 4,
    "torch_dtype": "bfloat16", "vocab_size": 151936,
}  # fmt: skip


@pytest.mark.slow
def test_a_thousand_layers_do_not_hang_the_search():
    began = time.process_time()
    model = advisor.parse_config(json.dumps(DEEP).encode(), name="deep", where="config.json")
    answer = advisor.recommend(model, "RTX4090", engine="torch")
    assert not answer.candidates
    assert any("more GPUs" in text for text in answer.relaxations)
    assert time.process_time() - began < 25.0
