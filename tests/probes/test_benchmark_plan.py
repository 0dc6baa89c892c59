"""What a plan says besides shapes: thresholds to look for, and whether logits are compared."""

import json

import pytest

from catalog.errors import InputError
from probes.benchmark_plan import read_plan


def read(tmp_path, **entry):
    plan = {"source": "a test", "gpu": "H200-SXM", "thresholds": [[64, 128, 128]], "loads": []}
    plan["loads"] = [{"model": "meta-llama/Llama-2-7b-hf", "role": "fit", **entry}]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return read_plan(path)[0]


def test_thresholds_and_agreement_are_shared_or_a_loads_own(tmp_path):
    shared = read(tmp_path)
    assert (shared.thresholds, shared.agreement) == (((64, 128, 128),), True)
    own = read(tmp_path, thresholds=[[8, 8192, 32], [1, 2, 3]], agreement=False)
    assert (own.thresholds, own.agreement) == (((8, 8192, 32), (1, 2, 3)), False)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"thresholds": 64}, r"thresholds is 64; it must be a list"),
        ({"thresholds": [64, 128, 128]}, r"thresholds 1 is 64; it must be a list"),
        (
            {"thresholds": [[0, 128, 128]]},
            r"thresholds 1 1 is 0; it must be greater than 0; each is \[batch, input_len, output_len\]",
        ),
        ({"prefix": ["a"]}, r"prefix is \['a'\]; it must be text"),
        (
            {"prefix": "x/../../../escaped"},
            "prefix is 'x/../../../escaped'; it must be short text that can be part of a file",
        ),
        ({"label": 1}, "label is 1; it must be text"),
        ({"shapes": 3}, "shapes is 3; it must be a list"),
        ({"deployment": 1.5}, "deployment is 1.5; it must be an object"),
        ({"deployment": {"tpp": 2}}, "unknown field 'tpp'; closest: tp"),
        ({"measure_s": 10**400}, "measure_s is .*; it must be a finite number"),
        ({"agreement": "no"}, r"agreement is 'no'; it must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, **entry)


@pytest.mark.parametrize(
    ("text", "message"), [("[" * 100_000, "is not JSON"), ('{"loads": [1]}', "load 1 is 1; it must be an object")]
)
def test_a_file_that_is_no_plan_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as refusal:
        read_plan(path)
    assert len(str(refusal.value).splitlines()) == 1
