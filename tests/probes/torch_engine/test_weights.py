"""Random weights that do not depend on the slicing, and checkpoints of which only a share is read."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import save_file

from catalog.engines.torch_layout import lay_out
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.schema import Deployment
from probes.checkpoint import Checkpoint, is_checkpoint
from probes.torch_engine import weight_sources as transformer_sources
from probes.torch_engine.engine import TorchEngine
from probes.torch_engine.weight_sources import RandomSource
from probes.torch_engine.weights import read_weights

TINY = replace(
    find_model("meta-llama/Llama-3.1-8B").value,
    source="",
    dtype="float32",
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
    vocab_size=50,
    max_position_embeddings=64,
)
PLAIN = Deployment(engine="torch", compiled=False, max_num_seqs=4)


def test_random_weights_are_spread_as_promised_and_unlike_one_another():
    first, second = (RandomSource().part(name, (500, 400), 0, 0, 500) for name in ("one", "other"))
    assert abs(float(first.mean())) < 1e-4
    assert float(first.std()) == pytest.approx(transformer_sources.SPREAD, rel=0.01)
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.02
    assert not torch.equal(first, RandomSource(seed=1).part("one", (500, 400), 0, 0, 500))


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 24])
def test_a_part_of_random_weights_is_the_part_of_the_whole(monkeypatch, at_once):
    monkeypatch.setattr(transformer_sources, "AT_ONCE", at_once)
    whole = RandomSource().part("w", (60, 40), 0, 0, 60)
    assert torch.equal(RandomSource().part("w", (60, 40), 0, 7, 19), whole[7:19])
    assert torch.equal(RandomSource().part("w", (60, 40), 1, 7, 19), whole[:, 7:19])
    assert torch.equal(RandomSource().part("b", (60,), 0, 7, 19), RandomSource().part("b", (60,), 0, 0, 60)[7:19])


def test_norms_of_a_random_model_are_ones():
    assert torch.equal(RandomSource().part("model.norm.weight", (8,), 0, 0, 8), torch.ones(8))


def weights_of(model, *, tp=1, pp=1, rank=0, source=None):
    layout = lay_out(model, tp=tp, pp=pp, rank=rank)
    source = source or RandomSource()
    return read_weights(model, layout, source, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("tied", [False, True])
def test_slices_add_up_to_the_model(tied):
    model = replace(TINY, tie_word_embeddings=tied)
    whole = weights_of(model)
    halves = [weights_of(model, tp=2, rank=rank) for rank in range(2)]
    for layer, (attention, block) in enumerate(whole.layers):
        parts = [half.layers[layer] for half in halves]
        assert torch.equal(torch.cat([part.out for part, _ in parts], dim=1), attention.out)
        assert torch.equal(torch.cat([part.down for _, part in parts], dim=1), block.down)
        queries = torch.cat([part.qkv[:32] for part, _ in parts])
        assert torch.equal(queries, attention.qkv[:64])
    assert torch.equal(torch.cat([half.embedding for half in halves]), whole.embedding)
    assert (whole.head is whole.embedding) == tied
    stages = [weights_of(model, pp=2, rank=rank) for rank in range(2)]
    assert [len(stage.layers) for stage in stages] == [1, 1]
    assert (stages[0].head, stages[0].norm, stages[1].embedding is not None) == (None, None, tied)
    assert sum(stage.nbytes() for stage in stages) == whole.nbytes() + tied * whole.embedding.nbytes


def a_checkpoint(folder, *, files=3):
    """TINY's random weights under the names that Hugging Face uses, in so many files."""
    tensors = {}

    class Written(RandomSource):
        def part(self, name, shape, dim, begin, end):
            tensors[name] = super().part(name, shape, dim, begin, end).contiguous()
            return tensors[name]

    weights_of(TINY, source=Written())
    names = sorted(tensors)
    index = {}
    for number in range(files):
        file = "model.safetensors" if files == 1 else f"model-{number}.safetensors"
        chosen = {name: tensors[name] for name in names[number::files]}
        save_file(chosen, folder / file)
        index |= dict.fromkeys(chosen, file)
    if files > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("files", [1, 3])
def test_a_process_reads_its_share_of_a_checkpoint_and_no_more(tmp_path, files):
    assert not is_checkpoint(tmp_path)
    a_checkpoint(tmp_path, files=files)
    assert is_checkpoint(tmp_path)
    for tp, pp in ((1, 1), (2, 1), (4, 1), (2, 2)):
        for rank in range(tp * pp):
            source = Checkpoint(tmp_path)
            taken = weights_of(TINY, tp=tp, pp=pp, rank=rank, source=source)
            expected = weights_of(TINY, tp=tp, pp=pp, rank=rank)
            assert all(map(torch.equal, taken.tensors(), expected.tensors()))
            padding = sum(
                4 * TINY.hidden_size * (part - (end - begin))
                for begin, end, part in [lay_out(TINY, tp=tp, pp=pp, rank=rank).vocabulary_share(TINY.vocab_size)]
                for table in (taken.embedding, taken.head)
                if table is not None
            )
            assert source.read_bytes == taken.nbytes() - padding


@pytest.mark.slow
def test_weights_come_from_the_folder_that_the_model_was_read_from(tmp_path):
    a_checkpoint(tmp_path)
    config = {"model_type": "llama", "rope_theta": 10_000.0, "rms_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = replace(TINY, source=str(tmp_path / "config.json"))
    prompts = [[1, 2, 3, 4]]
    found, expected = (TorchEngine(each, PLAIN) for each in (model, TINY))
    assert (found.fingerprint["weights"], expected.fingerprint["weights"]) == ("checkpoint", "random")
    assert torch.equal(found.tokens(prompts, 5)[0], expected.tokens(prompts, 5)[0])


def test_unusable_checkpoints_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"has neither model.safetensors.index.json nor model.safetensors"):
        Checkpoint(tmp_path)
    a_checkpoint(tmp_path)
    wider = replace(TINY, intermediate_size=128)
    with pytest.raises(
        InputError, match=r"gate_proj.weight has shape \(96, 64\); by config.json it must be \(128, 64\)"
    ):
        weights_of(wider, source=Checkpoint(tmp_path))
    with pytest.raises(InputError, match=r"has no tensor model.layers.0.self_attn.q_proj.bias"):
        weights_of(replace(TINY, qkv_bias=True), source=Checkpoint(tmp_path))
    (tmp_path / "model-1.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match=r"cannot read .*model-1.safetensors"):
        weights_of(TINY, source=Checkpoint(tmp_path))
    for index in ("[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(InputError, match=r"is no index with a weight_map"):
            Checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(InputError, match=r"names '../a.safetensors'; files must lie beside it"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("prompts", "output_len", "message"),
    [
        ([[1, 2], [1]], 3, "prompts differ in length"),
        ([[1] * 60], 5, "65 tokens exceed max_model_len 64"),
        ([[1] * 60] * 5, 4, "320 tokens exceed the KV capacity 256"),
    ],
)
def test_batches_that_do_not_fit_are_refused(prompts, output_len, message):
    with pytest.raises(InputError, match=message):
        TorchEngine(TINY, PLAIN).tokens(prompts, output_len)


def test_more_sequences_than_there_is_room_for_run_in_waves():
    engine = TorchEngine(TINY, PLAIN)
    firsts = engine.generate([[1, 2, 3]] * 10, 4)
    assert len(firsts) == 10
    assert max(firsts[:4]) < min(firsts[4:8])
    assert max(firsts[4:8]) < min(firsts[8:])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_follows_single_precision(dtype):
    exact, half = (TorchEngine(TINY, replace(PLAIN, dtype=each)) for each in ("float32", dtype))
    prompts = [[5, 6, 7, 8, 9]] * 2
    seen = {}
    for name, engine in (("exact", exact), ("half", half)):
        engine.tokens(prompts, 1, lambda _, __, logits, name=name: seen.update({name: logits.float()}))
    assert float((seen["exact"] - seen["half"]).abs().max()) < 0.02 * float(seen["exact"].abs().max())
