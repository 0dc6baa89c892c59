"""The fit that ships can be made again: the same evidence gives the same bytes, and a check names what does not."""

import json
from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_limits

from advisor.calibration import shipped_fit
from advisor.calibration.fit_comparison import check_rebuilt, first_difference
from advisor.calibration.kernel_observations import evidence_of
from advisor.calibration.posterior import fit_posterior
from advisor.calibration.surrogate import Surrogate
from catalog.kernels import shipped_attention, shipped_kernels


def fitted():
    """Fit some kernels alone, which goes through all linear algebra of a whole fit."""
    evidence = evidence_of([*shipped_kernels()[::32], *shipped_attention()[::64]], "vllm")
    posterior = fit_posterior(evidence)
    return Surrogate(
        marginals={("vllm", "H200-SXM"): posterior.marginal("vllm", "H200-SXM")},
        scales={}, sources=("a",), data_hash="0123",
    )  # fmt: skip


def test_the_same_evidence_gives_the_same_bytes():
    with threadpool_limits(limits=2, user_api="blas"):
        first = fitted().to_json()
    with threadpool_limits(limits=1, user_api="blas"):
        assert fitted().to_json() == first


@pytest.fixture(scope="module")
def surrogate():
    return fitted()


@pytest.fixture
def stand_in(surrogate, monkeypatch, tmp_path):
    """Make the command fit in no time, and return the file that it wrote."""
    monkeypatch.setattr(shipped_fit, "calibrate", lambda *_, **__: surrogate)
    monkeypatch.setattr(shipped_fit, "read_published", lambda _: SimpleNamespace(runs=()))
    path = tmp_path / "fit.json"
    assert shipped_fit.main(["--out", str(path)]) == 0
    return path


def test_a_check_writes_nothing_and_names_the_first_field_that_differs(stand_in, capsys):
    arguments = ["--check", "--out", str(stand_in)]
    assert shipped_fit.main(arguments) == 0
    body = json.loads(stand_in.read_text())
    body["marginals"][0]["mean"][3] *= 1.001
    changed = json.dumps(body, separators=(",", ":")) + "\n"
    stand_in.write_text(changed)
    capsys.readouterr()
    assert shipped_fit.main(arguments) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"marginals[{body['marginals'][0]['provenance']} vllm H200-SXM].mean[3]: ")
    assert said.count("\n") == 1
    assert stand_in.read_text() == changed
    assert shipped_fit.main([*arguments, "--tolerance", "0.01"]) == 0


def test_a_file_of_the_same_fields_in_other_words_is_another(stand_in, surrogate):
    stand_in.write_text(json.dumps(json.loads(stand_in.read_text())) + "\n")
    assert str(check_rebuilt(surrogate, stand_in)).startswith("the text itself: ")


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "b"),
        ({"a": [1, 2]}, {"a": [1]}, "length of a"),
        ({"a": [{"engine": "vllm", "x": None}]}, {"a": [{"engine": "vllm", "x": 0.0}]}, "a[vllm].x"),
        ({"a": True}, {"a": 1}, "a"),
        ({"a": "x"}, {"a": ["x"]}, "a"),
        ({"a": 2.0, "b": 1}, {"a": 2.5, "b": 2}, "a"),
    ],
)
def test_differences_are_named_by_place(one, other, field):
    assert first_difference(one, other).field == field
    assert first_difference(one, one) is None


def test_a_tolerance_is_of_the_largest_number_of_a_list():
    assert first_difference({"a": [100.0, 1e-9]}, {"a": [100.0, 1e-3]}, 1e-4) is None
    assert first_difference({"a": [100.0, 1e-9]}, {"a": [100.0, 1e-1]}, 1e-4).field == "a[1]"
