"""A user's own models and GPUs add to the shipped ones or replace them."""

import os
from dataclasses import asdict

import pytest

from catalog.borders import checked
from catalog.errors import InputError
from catalog.gpus import all_gpus, find_gpu, parse_cluster
from catalog.models.find import all_models, find_model
from catalog.paths import home as advisor_home
from catalog.schema import Gpu, Model
from catalog.tables import DATA, table

OWN_GPU = '["Z9"]\naliases = ["z-nine"]\nmemory_gib = 1000\nmemory_bandwidth_gbps = 20_000\nfp16_tflops = 5000\n'


def write(home, name, text):
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_an_invented_gpu(home):
    write(home, "gpus/ours.toml", OWN_GPU)
    assert parse_cluster("4xz-nine").value.gpu.memory_gib == 1000
    assert "Z9" in {gpu.name for gpu in all_gpus()}


def test_a_gpu_based_on_another(home):
    write(home, "gpus.toml", '["H100-64GB"]\nbase = "H100-SXM"\nmemory_gib = 63.3\n')
    gpu = find_gpu("h100-64gb").value
    assert (gpu.name, gpu.memory_gib, gpu.fp16_tflops) == ("H100-64GB", 63.3, 989)


def test_own_entries_replace_shipped_ones_and_take_their_short_names(home):
    before = find_gpu("A100").value
    write(home, "gpus.toml", '["my-a100"]\nbase = "A100-SXM-40GB"\naliases = ["A100"]\n')
    assert find_gpu("A100").value.name == "my-a100"
    assert find_gpu("A100").notes == ()
    write(home, "gpus/z.toml", OWN_GPU.replace("Z9", "A100-SXM-80GB"))
    assert find_gpu("A100-SXM-80GB").value.memory_gib == 1000
    assert before.memory_gib < 80


def test_an_edited_file_is_read_again(home):
    path = write(home, "gpus.toml", OWN_GPU)
    assert find_gpu("Z9").value.memory_gib == 1000
    path.write_text(OWN_GPU.replace("1000", "2000"))
    os.utime(path, (1, 1))
    assert find_gpu("Z9").value.memory_gib == 2000
    path.unlink()
    with pytest.raises(InputError):
        find_gpu("Z9")


def test_own_models(home):
    write(home, "models/a.toml", '["ours/tiny"]\nbase = "meta-llama/Llama-3.2-1B"\nnum_hidden_layers = 8\n')
    model = find_model("tiny").value
    assert (model.name, model.num_hidden_layers, model.hidden_size) == ("ours/tiny", 8, 2048)
    assert "ours/tiny" in {model.name for model in all_models()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not a TOML file"),
        ("\0", "is not a TOML file"),
        ("x = 1\n", "outside of a table"),
        ('["G"]\nmemory_gib = 1\n', "memory_bandwidth_gbps, fp16_tflops are missing"),
        ('["G"]\nbase = "H100-SXN"\n', "closest: H100-SXM"),
        ('["G"]\nbase = "G"\n', "circle"),
        ('["G"]\nbase = "H"\n["H"]\nbase = "G"\n', "circle"),
        ('["G"]\nbase = 3\n', "base must be text"),
        ('["G"]\naliases = "g"\n', "aliases must be a list of names"),
        ('["G"]\nbase = "H100-SXM"\nmemory_gb = 80\n', "unknown field 'memory_gb'; closest: memory_gib"),
        ('["G"]\nbase = "H100-SXM"\nmemory_gib = "80"\n', "memory_gib is '80'; it must be a number"),
        ('["G"]\nbase = "H100-SXM"\nmemory_gib = nan\n', "finite number"),
        ('["G"]\nbase = "H100-SXM"\nmemory_gib = -80\n', "memory_gib is -80"),
        ('["G"]\nbase = "H100-SXM"\nmemory_gib = ' + "9" * 400 + "\n", "finite number"),
        ('["G"]\nbase = "H100-SXM"\ngpus_per_node = 8.0\n', "a whole number"),
        ('["G"]\nbase = "H100-SXM"\ntopology = "star"\n', "'nvswitch', 'mesh'"),
        ('["G"]\nbase = "H100-SXM"\nbf16 = 1\n', "true or false"),
    ],
)
def test_bad_tables_are_one_line(home, text, words):
    write(home, "gpus.toml", text)
    with pytest.raises(InputError, match=words) as caught:
        find_gpu("G")
    assert "\n" not in str(caught.value)


def test_bad_models_are_one_line(home):
    write(home, "models.toml", '["m"]\nbase = "llama"\n')
    with pytest.raises(InputError, match="base 'llama' is unknown"):
        find_model("m")
    write(home, "models.toml", '["m"]\nbase = "google/gemma-2-2b"\nnum_key_value_heads = 3\n')
    with pytest.raises(InputError, match="no multiple"):
        find_model("m")
    write(home, "models.toml", '["m"]\nbase = "google/gemma-2-2b"\nsliding_window = 0\n')
    with pytest.raises(InputError, match="go together"):
        find_model("m")


def test_unreadable_and_huge_files(home):
    path = write(home, "gpus.toml", "#" * 5_000_000)
    with pytest.raises(InputError, match="larger than"):
        find_gpu("H100")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a TOML file"):
        find_gpu("H100")


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("ADVISOR_HOME", "~/somewhere")
    assert advisor_home().is_absolute()
    monkeypatch.delenv("ADVISOR_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert advisor_home().name == "advisor"


@pytest.mark.parametrize(("kind", "cls"), [("models", Model), ("gpus", Gpu)])
def test_what_ships_is_what_a_check_would_make_of_it(kind, cls):
    """What ships is not checked again on every start, so it is here."""
    shipped = table(kind)
    for name, entry in shipped.entries.items():
        assert entry.path.is_relative_to(DATA)
        if "config" in shipped.values(name):  # read as a config.json is, and checked so
            continue
        built = shipped.build(cls, name)
        assert repr(checked(cls, asdict(built), entry.where)) == repr(built)
