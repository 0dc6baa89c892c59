"""Layers in the host's memory: the same logits as without, every byte counted, and copies beside the kernels."""

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from hypothesis import given
from hypothesis import strategies as st

from catalog.engines.torch_layout import ProcessLayout, lay_out
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.schema import Deployment
from probes.torch_engine import offload as transformer_offload
from probes.torch_engine.engine import TorchEngine
from probes.torch_engine.links import LinkTraffic
from probes.torch_engine.memory import give_back
from probes.torch_engine.offload import (
    LEAST_PIECE,
    HostLayer,
    LayerStream,
    layer_tensors,
    offloaded_layers,
    piece_sizes,
)
from probes.torch_engine.weight_sources import RandomSource
from probes.torch_engine.weights import read_weights
from tests.probes.torch_engine.torch_world import case, run_world

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "torch_dtype": "float32",
}
LAYOUTS = ((1, 1), (2, 1), (1, 2), (2, 2))
SHARES = {0.0: 0, 0.5: 2, 1.0: 5}
"""Share of the layers, and how many of five that is."""
INPUT_LEN, OUTPUT_LEN, BATCH = 9, 7, 3

LLAMA = replace(find_model("meta-llama/Llama-3.1-8B").value, source="")
TINY = replace(LLAMA, **{name: value for name, value in CONFIG.items() if name != "torch_dtype"}, head_dim=16)
EXPERTS = replace(
    TINY,
    model_type="qwen3_moe",
    num_hidden_layers=6,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    moe_layer_step=2,
    qk_norm=True,
)
BIASED = replace(TINY, qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True)


@given(layers=st.integers(1, 130), share=st.floats(0, 1))
def test_as_many_layers_as_asked_for_and_none_twice_as_near_as_others(layers, share):
    chosen = sorted(offloaded_layers(layers, share))
    assert chosen == sorted(set(chosen) & set(range(layers)))
    assert abs(len(chosen) - share * layers) <= 0.5 or len(chosen) == 1
    assert bool(chosen) == (share > 0)
    gaps = [end - begin for begin, end in zip([-1, *chosen], chosen, strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(length=st.integers(1, 2**33), itemsize=st.sampled_from([2, 4]))
def test_pieces_waste_no_pinned_memory(length, itemsize):
    *powers, rest = sizes = piece_sizes(length, itemsize)
    assert sum(sizes) == length
    assert all((size * itemsize).bit_count() == 1 for size in powers)
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < rest * itemsize <= LEAST_PIECE or (rest * itemsize).bit_count() == 1


def the_weights(model, offloaded=(), dtype=torch.float32):
    layout = lay_out(model, tp=1, pp=1, rank=0)
    return read_weights(
        model, layout, RandomSource(), dtype=dtype, device=torch.device("cpu"), offloaded=frozenset(offloaded)
    )


@pytest.mark.parametrize("offloaded", [{0}, {5}, {1, 3}, {0, 1, 2}, {2, 3, 4}, set(range(6))], ids=str)
@pytest.mark.parametrize(
    "model",
    [replace(TINY, num_hidden_layers=6), EXPERTS, replace(BIASED, num_hidden_layers=6)],
    ids=["dense", "experts", "biased"],
)
def test_each_layer_is_there_when_its_turn_comes(monkeypatch, model, offloaded):
    monkeypatch.setattr(transformer_offload, "LEAST_PIECE", 1024)  # several pieces of even so small a layer
    expected, weights, traffic = the_weights(model), the_weights(model, offloaded), LinkTraffic()
    for _ in range(2):
        with closing(weights.in_turn(traffic)) as layers:
            for number, layer in enumerate(layers):
                pairs = zip(layer_tensors(layer), layer_tensors(expected.layers[number]), strict=True)
                assert all(torch.equal(*pair) for pair in pairs)
    assert traffic.payload == {"host": 2 * weights.stream.nbytes}
    assert traffic.calls == {"host": 2 * len(offloaded)}
    sizes = [sum(each.nbytes for each in layer_tensors(layer)) for layer in expected.layers]
    assert weights.stream.nbytes == pytest.approx(sum(sizes[each] for each in offloaded), rel=0.02)
    # on the device there is room for two of them
    room = min(2, len(offloaded)) * max(sizes[each] for each in offloaded)
    saved = expected.nbytes() - weights.nbytes()
    assert saved == pytest.approx(sum(sizes[each] for each in offloaded) - room, abs=0.02 * sum(sizes))


def test_a_pass_that_was_left_early_spoils_no_later_one():
    expected, weights = the_weights(TINY), the_weights(TINY, range(5))
    for turns in (1, 2, 3, 5):
        with closing(weights.in_turn(LinkTraffic())) as layers:
            for number in range(turns):
                attention, _ = next(layers)
                assert torch.equal(attention.qkv, expected.layers[number][0].qkv)


def test_a_host_without_room_is_told_in_one_line(monkeypatch):
    layer = the_weights(TINY).layers[0]

    def full(*_, **__):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(transformer_offload.torch, "empty", full)
    message = r"^the host cannot pin 0.00 GiB more, .*; lower offload \(CUDA error: out of memory\)$"
    with pytest.raises(InputError, match=message):
        HostLayer.of(layer)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the engine made of one model in each layout with each share: a folder of files."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    prompts = np.random.default_rng(5).integers(0, CONFIG["vocab_size"], (BATCH, INPUT_LEN)).tolist()
    cases = [
        case(f"offload{share}", folder / "tiny", prompts, output_len=OUTPUT_LEN, offload=share) for share in SHARES
    ]
    run_world(folder, LAYOUTS, cases)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "tp{}pp{}".format(*layout))
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_logits_are_those_without_offload_to_the_last_bit(world, layout, share):
    runs = ["offload{}-tp{}pp{}".format(each, *layout) for each in (0.0, share)]
    tokens, offloaded_tokens = (np.load(world / f"{run}-tokens.npy") for run in runs)
    assert (tokens == offloaded_tokens).all()
    for tp_rank in range(layout[0]):
        logits, offloaded = (np.load(world / f"{run}-logits-{tp_rank}.npy") for run in runs)
        assert logits.shape == (BATCH, OUTPUT_LEN, CONFIG["vocab_size"])
        assert logits.std() > 0
        assert np.array_equal(logits, offloaded)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "tp{}pp{}".format(*layout))
@pytest.mark.parametrize("share", SHARES)
def test_every_byte_from_the_host_is_counted(world, layout, share):
    tp, pp = layout
    hidden, width = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    # norms are whole on each process; all sizes here are multiples of what tensors are aligned to
    layer = 4 * ((hidden * (4 + 4) * 16 + 16 * 4 * hidden + 3 * hidden * width) // tp + 2 * hidden)
    # two micro-batches of prefill; in decode as many groups as stages
    passes = 2 + pp * (OUTPUT_LEN - 1)
    offloaded = 0
    for rank in range(tp * pp):
        name = f"offload{share}-tp{tp}pp{pp}-rank{rank}.json"
        report, without = (json.loads((world / each).read_text()) for each in (name, name.replace(str(share), "0.0")))
        host = report["payload"].pop("host", 0)
        count = host / passes / layer
        assert count == int(count)
        offloaded += int(count)
        assert report["payload"] == without["payload"]
        assert report["sent"] == without["sent"]
        assert without["weights"] - report["weights"] == max(0, count - 2) * layer
    assert offloaded == SHARES[share] * tp


def test_what_was_offloaded_is_known():
    engine = TorchEngine(TINY, Deployment(engine="torch", compiled=False, dtype="float32", max_num_seqs=2, offload=0.5))
    assert engine.fingerprint["offloaded"] == [2]
    assert engine.host_bytes() == 0
    engine.generate([[1, 2, 3]], 4)
    assert engine.host_bytes() == 4 * engine._transformer.weights.stream.nbytes
    assert engine.comm_bytes() == 0


HALF = {
    "dtype": "bfloat16",
    "hidden_size": 128,
    "head_dim": 32,
    "intermediate_size": 192,
    "max_position_embeddings": 256,
}


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("model", [TINY, EXPERTS], ids=["dense", "experts"])
def test_recorded_steps_with_offload_have_the_logits_of_those_without(model, share):
    model = replace(model, **HALF)
    prompts = torch.randint(0, 100, (3, 30), generator=torch.Generator().manual_seed(2)).tolist()
    seen = []
    for graphs, offload in ((True, 0.0), (True, share), (False, 0.0), (False, share)):
        deployment = Deployment(
            engine="torch", compiled=False, graphs=graphs, max_num_seqs=4, max_model_len=128, offload=offload
        )
        engine = TorchEngine(model, deployment, device="cuda")
        logits = []
        for _ in range(2):  # the second time from the graph of the first, after other prefills
            tokens, _ = engine.tokens(prompts, 40, lambda _, __, each, kept=logits: kept.append(each.float().clone()))
        seen.append((tokens, torch.stack(logits)))
        layers = sum(engine.fingerprint["offloaded"])
        passes = 2 * 40
        stream = engine._transformer.weights.stream
        assert engine.host_bytes() == (passes * stream.nbytes if offload else 0)
        assert (layers > 0) == (offload > 0)
    for without, offloaded in (seen[:2], seen[2:]):
        assert torch.equal(without[0], offloaded[0])
        assert torch.equal(without[1], offloaded[1])


@pytest.mark.gpu
def test_memory_that_offload_frees_is_kv_capacity():
    model = replace(LLAMA, num_hidden_layers=12)
    plain = Deployment(engine="torch", compiled=False, max_num_seqs=4096, max_model_len=4096)
    engine = TorchEngine(model, plain, device="cuda")
    capacity, weight_bytes = engine.kv_capacity_tokens, engine.weight_bytes
    del engine
    give_back(torch.device("cuda"))
    engine = TorchEngine(model, replace(plain, offload=1.0), device="cuda")
    freed = weight_bytes - engine.weight_bytes
    assert freed == pytest.approx(10 / 12 * engine._transformer.weights.stream.nbytes, rel=0.01)
    grown = (engine.kv_capacity_tokens - capacity) * 12 * 2 * 8 * 128 * 2
    assert grown == pytest.approx(freed, rel=0.1)


@pytest.mark.gpu
def test_layers_are_copied_while_others_are_computed():
    device, count, size = torch.device("cuda"), 8, 1 << 13
    layer = read_weights(
        replace(LLAMA, num_hidden_layers=1),
        ProcessLayout(tp=1, stages=(range(1),), rank=0),
        RandomSource(device=device),
        dtype=torch.bfloat16,
        device=device,
    ).layers[0]
    stream = LayerStream(dict.fromkeys(range(count), HostLayer.of(layer)), device)
    layers = [stream.layers[place] for place in range(count)]
    x = torch.randn(size, LLAMA.hidden_size, dtype=torch.bfloat16, device=device)

    def products(times):
        for _ in range(times):
            torch.nn.functional.linear(x, layer[0].qkv)

    def seconds(work):
        took = []
        for _ in range(4):
            torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            torch.cuda.synchronize()
            took.append(time.perf_counter() - began)
        return min(took)

    def one_pass(times):
        with closing(stream.through(layers, LinkTraffic())) as through:
            for _ in through:
                products(times)

    copies = seconds(lambda: one_pass(0))
    times = max(1, round(copies / count / seconds(lambda: products(1))))
    kernels = seconds(lambda: products(count * times))
    both = seconds(lambda: one_pass(times))
    assert both < max(copies, kernels) + 0.5 * min(copies, kernels)
