"""Models that only the hub knows, with the hub played by a fake: tests have no network."""

import json
import sys
import time
from types import SimpleNamespace

import pytest

from catalog.errors import InputError
from catalog.models import hub
from catalog.models.find import find_model
from tests.catalog.models.configs import CONFIGS


class GatedRepoError(Exception):
    """As huggingface_hub names it."""


class Hub(SimpleNamespace):
    """The functions that are called, and what was asked of them."""

    def __init__(self, path, *, size=1000, cached=None, error=None, wait=0.0, stored=None):
        self.asked = []

        def metadata(url, timeout):
            self.asked.append(("metadata", url, timeout))
            time.sleep(wait)
            if error:
                raise error
            return SimpleNamespace(size=size)

        def download(repository, name, etag_timeout):
            self.asked.append(("download", repository, etag_timeout))
            return str(path / name)

        def info(repository, *, timeout, expand):
            self.asked.append(("info", repository, timeout, tuple(expand)))
            if stored is None:
                raise OSError("no such thing")
            return SimpleNamespace(safetensors=SimpleNamespace(parameters=stored))

        super().__init__(
            try_to_load_from_cache=lambda _repository, _name: cached,
            hf_hub_url=lambda repository, name: f"{repository}/{name}",
            get_hf_file_metadata=metadata,
            hf_hub_download=download,
            model_info=info,
        )


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["meta-llama/Llama-3.2-1B"]))
    return folder


def play(monkeypatch, fake):
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_model_of_the_hub(monkeypatch, config):
    fake = play(monkeypatch, Hub(config))
    model = find_model("someone/new-model").value
    assert (model.name, model.hidden_size) == ("someone/new-model", 2048)
    assert [each[0] for each in fake.asked] == ["metadata", "download", "info"]
    assert all(each[2] <= 5 for each in fake.asked)


def test_sizes_that_the_hub_states_are_held_against_the_count(monkeypatch, config):
    """Llama-3.2-1B has 1.236 B parameters; the hub counts them in the files' headers."""
    play(monkeypatch, Hub(config, stored={"BF16": 1_235_814_400}))
    found = find_model("someone/new-model")
    assert (found.value.checkpoint_bytes, found.notes) == (2 * 1_235_814_400, ())
    play(monkeypatch, Hub(config, stored={"BF16": 1_500_000_000, "XY": 3}))
    found = find_model("someone/new-model")
    assert "21.4% more" in found.notes[0].text
    assert "memory is counted from its files" in found.notes[0].text
    play(monkeypatch, Hub(config, stored={"F8_E4M3": 1_235_814_400}))
    found = find_model("someone/new-model")
    assert found.value.quantization == "fp8"
    assert "stored in F8_E4M3, which its configuration does not say" in found.notes[0].text


def test_the_cache_needs_no_network(monkeypatch, config):
    fake = play(monkeypatch, Hub(config, cached=str(config / "config.json")))
    assert find_model("someone/new-model").value.hidden_size == 2048
    assert fake.asked == []


def test_the_catalog_beats_the_hub(monkeypatch, config):
    fake = play(monkeypatch, Hub(config))
    assert find_model("meta-llama/Llama-2-13b-hf").value.hidden_size == 5120
    assert fake.asked == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("[Errno -2] Name or service not known\nmore"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (GatedRepoError("Cannot access gated repo\nfor url"), "licence must be accepted"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_failures_are_one_line_with_the_closest_names(monkeypatch, config, error, words):
    play(monkeypatch, Hub(config, error=error))
    with pytest.raises(InputError, match=words) as caught:
        find_model("meta-llama/Llama-2-14b-hf")
    assert "closest: meta-llama/Llama-2-" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_huge_config_is_not_fetched(monkeypatch, config):
    fake = play(monkeypatch, Hub(config, size=10**9))
    with pytest.raises(InputError, match="too many for one"):
        find_model("someone/new-model")
    assert [each[0] for each in fake.asked] == ["metadata"]


def test_a_hub_that_does_not_answer(monkeypatch, config):
    play(monkeypatch, Hub(config, wait=30))
    monkeypatch.setattr(hub, "DEADLINE_S", 0.05)
    began = time.monotonic()
    with pytest.raises(InputError, match="did not answer"):
        find_model("someone/new-model")
    assert time.monotonic() - began < 15


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"advisor\[hub\]"):
        find_model("someone/new-model")


def test_the_real_package_has_what_is_called():
    import huggingface_hub as real

    for name in ("try_to_load_from_cache", "hf_hub_url", "get_hf_file_metadata", "hf_hub_download", "model_info"):
        assert callable(getattr(real, name))
    assert real.try_to_load_from_cache("someone/never-fetched", "config.json") is None


def test_a_hub_name_is_not_mistaken_for_a_path(monkeypatch, config):
    play(monkeypatch, Hub(config))
    for name in ("a/b/c", "a b/c", "../x", "a/..\\b", "https://huggingface.co/a/b"):
        with pytest.raises(InputError):
            find_model(name)
