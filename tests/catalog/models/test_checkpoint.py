"""Sizes that the files of a checkpoint state: right, absent, and hostile."""

import json
import time

import pytest

import advisor
from catalog.errors import InputError
from catalog.models.checkpoint import read_checkpoint
from catalog.models.find import find_model
from catalog.models.sizes import parameters, weight_share
from tests.catalog.models.configs import CONFIGS, MIXTRAL

LLAMA = CONFIGS["meta-llama/Llama-3.2-1B"]
COUNT = 1_235_814_400


def write(file, header, *, length=None, rest=b""):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data + rest)


def tensor(*shape, dtype="BF16"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}


def test_headers_are_summed_by_format_without_what_is_not_loaded(tmp_path):
    write(tmp_path / "model-00001-of-00002.safetensors", {
        "__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": tensor(1000, 64),
        "model.layers.0.mlp.down_proj.weight": tensor(64, 256, dtype="F8_E4M3"),
        "model.layers.1.mlp.down_proj.weight": tensor(64, 256, dtype="F8_E4M3"),
        "model.layers.2.mlp.down_proj.weight": tensor(64, 256, dtype="F8_E4M3"),
    })  # fmt: skip
    write(tmp_path / "model-00002-of-00002.safetensors", {
        "lm_head.weight": tensor(1000, 64), "mtp.layers.0.mlp.weight": tensor(64, 256), "a.weight_scale": tensor(3, dtype="F32"),
    })  # fmt: skip
    (tmp_path / "consolidated.safetensors").write_bytes(b"not looked at")
    found = read_checkpoint(tmp_path, layers=2, tied=True)
    assert found.by_dtype == (("BF16", 2 * 64_000), ("F8_E4M3", 2 * 64 * 256), ("F32", 12))
    assert found.total == 2 * 64_000 + 2 * 64 * 256 + 12
    assert read_checkpoint(tmp_path, layers=3, tied=False).total == found.total + 2 * 64_000 + 64 * 256


def test_an_index_names_the_files_and_stands_in_for_those_that_are_not_there(tmp_path):
    index = {"metadata": {"total_size": 5000}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    write(tmp_path / "one.safetensors", {"a": tensor(10)})
    write(tmp_path / "other.safetensors", {"c": tensor(10)})
    assert read_checkpoint(tmp_path, layers=2, tied=False).total == 5000
    write(tmp_path / "two.safetensors", {"b": tensor(30)})
    assert read_checkpoint(tmp_path, layers=2, tied=False).total == 80


def test_what_git_lfs_has_not_fetched_says_its_size(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2471645608\n"
    (tmp_path / "model.safetensors").write_bytes(pointer)
    assert read_checkpoint(tmp_path, layers=2, tied=False).total == 2_471_645_608


def test_nothing_is_there(tmp_path):
    assert read_checkpoint(tmp_path, layers=2, tied=False) is None


@pytest.mark.parametrize(
    ("header", "length", "words"),
    [
        (b"{}", 10**15, "would have 1000000000000000 bytes"),
        (b"", 0, "would have 0 bytes"),
        (b"{}", 400, "cut off within its header"),
        (b"[1]", None, "holds no JSON object"),
        (b'{"a": ', None, "is not JSON"),
        (b"\xff\xfe{}", None, "is not JSON"),
        (b"[" * 100_000, None, "is not JSON"),
        ({"a": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, 0]}}, None, "no format and shape"),
        ({"a": {"dtype": "BF16", "shape": [1.5], "data_offsets": [0, 0]}}, None, "no format and shape"),
        ({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 0]}}, None, "no format and shape"),
        ({"a": {"dtype": ["BF16"], "shape": [1]}}, None, "no format and shape"),
        ({"a": 3}, None, "no format and shape"),
        ({"a": tensor(*[10**12] * 3)}, None, "would have"),
        ({"a": tensor(*[1] * 500)}, None, "no format and shape"),
    ],
)  # fmt: skip
def test_hostile_headers_are_refused_in_one_line(tmp_path, header, length, words):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    write(tmp_path / "model.safetensors", header, length=length)
    begin = time.process_time()
    with pytest.raises(InputError, match=words) as caught:
        find_model(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"metadata": {"total_size": -1}}, "must be a number of bytes"),
        ({"metadata": {"total_size": "9"}}, "must be a number of bytes"),
        ({"metadata": {"total_size": True}}, "must be a number of bytes"),
        ({"metadata": {"total_size": 1e300}}, "must be a number of bytes"),
        ([], "holds no JSON object"),
    ],
)
def test_hostile_indexes_are_refused_in_one_line(tmp_path, index, words):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=words):
        find_model(str(tmp_path))


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "secret.safetensors", {"a": tensor(10)})
    for name in ("../secret.safetensors", "/etc/passwd", 3, None):
        index = {"metadata": {"total_size": 77}, "weight_map": {"a": name}}
        (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        assert read_checkpoint(tmp_path / "model", layers=1, tied=False).total == 77


@pytest.mark.parametrize(("share", "used"), [(1.0, True), (1.1, True), (0.9, True), (1.6, False)])
def test_memory_is_counted_from_the_files_where_they_can_be_these_weights(tmp_path, share, used):
    """A tenth more in the files is a tenth more on the GPU; two thirds more is not what the configuration describes."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    knobs = {"batch": 1, "input_len": 128, "output_len": 8}
    bare = advisor.estimate(str(tmp_path), "1xH100", **knobs).memory["weights"]
    write(tmp_path / "model.safetensors", {"a": tensor(round(COUNT * share))})
    model = find_model(str(tmp_path)).value
    assert parameters(model) == COUNT
    assert weight_share(model) == pytest.approx(share if used else 1.0)
    answer = advisor.estimate(str(tmp_path), "1xH100", **knobs)
    assert answer.memory["weights"] == pytest.approx(bare * share if used else bare, rel=0.02)
    told = [note.text for note in answer.notes if "than the 2.3 GiB" in note.text]
    assert len(told) == (share != 1.0)
    assert all(("from its files" in text) == used for text in told)


def test_eight_bits_that_no_configuration_states(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    size = 46_702_792_704
    write(tmp_path / "model.safetensors", {"a": tensor(size, dtype="F8_E4M3"), "b": tensor(10, dtype="F32")})
    found = find_model(str(tmp_path))
    assert found.value.quantization == "fp8"
    assert "stored in F8_E4M3" in found.notes[0].text
