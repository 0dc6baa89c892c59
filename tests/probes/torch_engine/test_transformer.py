"""The plain-PyTorch engine against Hugging Face's transformers: tiny random models, on one process and on several."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

from tests.probes.torch_engine.torch_world import case, run_world  # noqa: E402

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
LAYOUTS = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1))
INPUT_LEN, OUTPUT_LEN, BATCH = 11, 17, 3
TOLERANCE = 1e-4
SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts_per_tok": 2, "num_hidden_layers": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": ("Llama", {}),
    "llama-biased-tied-llama3": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    ),
    "mistral": ("Mistral", {"head_dim": 24, "sliding_window": None}),
    "mistral-windowed": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, **EXPERTS}),
    "qwen3-moe": (
        "Qwen3Moe",
        {"num_experts": 6, "moe_intermediate_size": 64, "norm_topk_prob": True, "head_dim": 16, **EXPERTS},
    ),
    "qwen3-moe-mixed": (
        "Qwen3Moe",
        {"num_experts": 4, "moe_intermediate_size": 32, "norm_topk_prob": False, "mlp_only_layers": [0], **EXPERTS},
    ),
}


def a_model(kind, changes, folder):
    """A random model, saved in several files. Norms and biases are random too, and logits of the size of 1."""
    torch.manual_seed(7)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder, max_shard_size="40KB")
    if kind == "Qwen3Moe":
        # transformers 5 calls num_experts what every published file calls otherwise
        path = folder / "config.json"
        written = json.loads(path.read_text())
        path.write_text(json.dumps({**written, "num_experts": config.num_experts}))
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the engine made of each model in each layout: a folder of files, and the models."""
    folder = tmp_path_factory.mktemp("world")
    torch.set_num_threads(1)
    generator = np.random.default_rng(3)
    models, cases = {}, []
    for name, (kind, changes) in MODELS.items():
        models[name] = a_model(kind, changes, folder / name)
        prompts = generator.integers(0, SIZES["vocab_size"], (BATCH, INPUT_LEN)).tolist()
        cases.append(case(name, folder / name, prompts, output_len=OUTPUT_LEN))
    run_world(folder, LAYOUTS, cases)
    return folder, models, {each["name"]: each for each in cases}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "tp{}pp{}".format(*layout))
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_transformers(world, name, layout):
    folder, models, cases = world
    run = "{}-tp{}pp{}".format(name, *layout)
    tokens = np.load(folder / f"{run}-tokens.npy")
    assert tokens.shape == (BATCH, OUTPUT_LEN)
    whole = torch.tensor(np.concatenate([cases[name]["prompts"], tokens], axis=1))
    with torch.inference_mode():
        expected = models[name](whole[:, :-1]).logits[:, INPUT_LEN - 1 :].numpy()
    assert expected.std() > 0.3
    for tp_rank in range(layout[0]):
        logits = np.load(folder / f"{run}-logits-{tp_rank}.npy")
        assert np.abs(logits - expected).max() < TOLERANCE
        assert (logits.argmax(axis=-1) == tokens).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "tp{}pp{}".format(*layout))
@pytest.mark.parametrize("name", MODELS)
def test_every_byte_sent_is_counted(world, name, layout):
    folder, models, _ = world
    tp, pp = layout
    config = models[name].config
    size, width = 4, config.hidden_size
    tokens = BATCH * (INPUT_LEN + OUTPUT_LEN - 1)
    for rank in range(tp * pp):
        report = json.loads((folder / f"{name}-tp{tp}pp{pp}-rank{rank}.json").read_text())
        first, last = rank < tp, rank >= tp * (pp - 1)
        expected = {}
        if tp > 1:
            expected["all_reduce"] = tokens * width * size * (2 * len(report["layers"]) + first)
            if last:
                expected["all_gather"] = BATCH * OUTPUT_LEN * -(-config.vocab_size // tp) * size
        if pp > 1 and not last:
            expected["forward"] = tokens * width * size
        if pp > 1 and last:
            expected["back"] = BATCH * OUTPUT_LEN * 8
        assert report["payload"] == expected
        ring = expected.get("all_reduce", 0) * 2 * (tp - 1) / tp + expected.get("all_gather", 0) * (tp - 1)
        assert report["sent"] == ring + expected.get("forward", 0) + expected.get("back", 0)
        # of three sequences a micro-batch of prefill holds two; two stages run groups of two and one
        micro_batches = 2
        if pp > 1 and not last:
            assert report["calls"]["forward"] == micro_batches + 2 * (OUTPUT_LEN - 1)
        if pp > 1 and last:
            assert report["calls"]["back"] == 2 * OUTPUT_LEN
