"""Agreement of logits, as numbers; with the engine's own, see ``test_torch_findings``."""

import numpy as np
import pytest

from probes.reference import FORCED, PROMPT, SEQUENCES, compare, sequences


def some(seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3, 5, 11)).astype(np.float32)
    return logits, generator.integers(0, 11, (3, 5))


def test_equal_logits_agree():
    logits, ids = some()
    found = compare(logits, logits, ids).fields()
    assert found == {"max_logit_diff": 0.0, "top1_agreement": 1.0, "ppl_diff": 0.0}


def test_logits_that_differ_by_a_constant_foretell_the_same():
    logits, ids = some()
    found = compare(logits + 2, logits, ids)
    assert found.max_logit_diff == pytest.approx(2, abs=1e-6)
    assert found.top1_agreement == 1
    assert found.ppl_diff == pytest.approx(0, abs=1e-6)


def test_each_number_is_what_its_definition_says():
    logits, ids = some()
    changed = logits.copy()
    place = (1, 2)
    changed[place] = 0
    changed[(*place, (logits[place].argmax() + 1) % 11)] = 3
    found = compare(changed, logits, ids)
    assert found.max_logit_diff == pytest.approx(np.abs(changed - logits).max())
    assert found.top1_agreement == pytest.approx(14 / 15)

    def perplexity(each):
        chances = np.exp(each) / np.exp(each).sum(axis=-1, keepdims=True)
        return np.exp(-np.log(np.take_along_axis(chances, ids[..., None], axis=-1)).mean())

    assert found.ppl_diff == pytest.approx(perplexity(changed) / perplexity(logits) - 1, rel=1e-5)


def test_what_is_no_number_agrees_with_nothing_and_is_not_told():
    logits, ids = some()
    broken = logits.copy()
    broken[0, 0, 0] = np.nan
    assert compare(broken, logits, ids).fields() == {"top1_agreement": 0.0}


def test_sequences_are_the_same_for_everyone():
    first, fewer = sequences(32000), sequences(32000, 3)
    assert first.shape == (SEQUENCES, PROMPT + FORCED)
    assert (first[:3] == fewer).all()
    assert 1000 <= first.min() <= first.max() < 32000
    assert (sequences(2) == 1).all()
