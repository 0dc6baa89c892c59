"""What several tests of the app ask: an uploaded model, and a small fleet."""

CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}

SMALL_FLEET = {
    "models": [
        {
            "model": "meta-llama/Meta-Llama-3.1-8B",
            "rate": 2.0,
            "input_len": 256,
            "output_len": 32,
            "ttft": 300.0,
            "tpot": 30.0,
        }
    ],
    "pools": [{"gpu": "H200-SXM", "kind": "on-demand", "price": 2.0}],
}
