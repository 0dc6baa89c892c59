"""The parts of a layer that are fused: as PyTorch runs them, as the compiler sees them, and on a GPU in CUDA graphs."""

from functools import partial

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from dataclasses import replace

import torch

from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.schema import Deployment
from probes.torch_engine import fused_kernels as transformer_kernels
from probes.torch_engine.engine import TorchEngine
from probes.torch_engine.fused_kernels import LayerKernels, add_norm, fused_kernels, rotate, swiglu
from probes.torch_engine.graphs import check_graphs

LLAMA = find_model("meta-llama/Llama-3.1-8B").value
TINY = {
    "source": "",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 192,
    "vocab_size": 500,
    "max_position_embeddings": 256,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(11)


def test_norms_and_activations_are_what_their_papers_say():
    x, y, weight = torch.randn(3, 8), torch.randn(3, 8), torch.rand(8)
    normed, added = add_norm(x, y, weight, 1e-3)
    assert torch.equal(added, x + y)
    root = ((x + y).pow(2).mean(dim=-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(normed, (x + y) / root * weight)
    gate, up = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(swiglu(torch.cat((gate, up), dim=-1)), gate * torch.sigmoid(gate) * up)


def test_turned_heads_keep_their_length_and_meet_by_distance_only():
    q, k = torch.randn(1, 2, 16), torch.randn(1, 2, 16)
    speeds = torch.rand(8)

    def turned(heads, position):
        angles = (position * speeds)[None, None]
        return rotate(heads, None, 1e-6, angles.cos(), angles.sin())

    torch.testing.assert_close(turned(q, 5).norm(dim=-1), q.norm(dim=-1))
    near, far = ((turned(q, 3 + at) * turned(k, at)).sum(dim=-1) for at in (0, 40))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norms", [None, (torch.full((16,), 1.5), torch.full((16,), 0.5))], ids=["plain", "normed"])
def test_the_compiler_sees_whole_functions_for_any_number_of_tokens(monkeypatch, norms):
    # traced, not compiled: that would take a minute
    monkeypatch.setattr(transformer_kernels.torch, "compile", partial(torch.compile, backend="eager"))
    fused, plain = fused_kernels("cpu"), LayerKernels()
    for tokens in (1, 16, 5, 3, 40):
        x, y, weight = torch.randn(tokens, 64), torch.randn(tokens, 64), torch.rand(64)
        pairs = [(each.add_norm(x, y, weight, 1e-5)[0], each.swiglu(x)) for each in (fused, plain)]
        torch.testing.assert_close(*pairs)
        joined, positions = torch.randn(2, tokens, 7, 16), torch.arange(3, 3 + tokens)
        turn = torch.rand(tokens, 1, 8), torch.rand(tokens, 1, 8)
        seen = []
        for each in (fused, plain):
            cache = torch.zeros(2, 2, 50, 1, 16)
            seen.append((each.place_heads(joined, norms, 1e-5, turn, positions, (cache[0], cache[1])), cache))
        torch.testing.assert_close(*seen)


def test_graphs_are_refused_without_triton(monkeypatch):
    monkeypatch.setattr(transformer_kernels, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"CUDA graphs need triton, .*; install it, or set graphs to false"):
        check_graphs()


@pytest.mark.filterwarnings("default")  # the compiler warns of its own makings
@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"qk_norm": True},
        {"sliding_window": 20, "num_windowed_layers": 2},
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ],
    ids=["gqa", "mha", "normed", "windowed", "experts"],
)
def test_recorded_and_fused_steps_have_the_logits_of_plain_ones(changes):
    model = replace(LLAMA, **{**TINY, **changes})
    prompts = torch.randint(0, 500, (3, 30)).tolist()
    seen = []
    for compiled in (False, True):
        deployment = Deployment(engine="torch", compiled=compiled, max_num_seqs=4, max_model_len=128)
        engine = TorchEngine(model, deployment, device="cuda")
        logits = []
        tokens, _ = engine.tokens(prompts, 40, lambda _, __, each, kept=logits: kept.append(each.float().clone()))
        seen.append((tokens, torch.stack(logits, dim=1)))
    (plain_tokens, plain), (fused_tokens, fused) = seen
    # the same as long as all earlier tokens were: near ties fall either way in half precision
    same = (plain_tokens == fused_tokens).cumprod(dim=1).bool()
    same = torch.cat((torch.ones_like(same[:, :1]), same[:, :-1]), dim=1)
    assert same.float().mean() > 0.3
    assert float((plain - fused).abs()[same].max()) < 0.05 * float(plain.abs().max())
