"""What a plan says besides shapes: thresholds to look for, and whether logits are compared."""

import json

import pytest

from catalog.schema import InputError
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
        ({"thresholds": 64}, r"thresholds is 64; it must be a list of \[batch, input_len, output_len\]"),
        ({"thresholds": [64, 128, 128]}, r"64 is no shape"),
        ({"thresholds": [[0, 128, 128]]}, r"batch is 0; it must be a whole number above 0"),
        ({"agreement": "no"}, r"agreement is 'no'; it must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, **entry)
