"""The works behind the project, restated: what a page says, and what must come out."""

from types import SimpleNamespace

import pytest

from advisor.validation.findings import WORKS, Finding, by_batch, findings, page, technology
from advisor.validation.published_claims import layer_split_claims


def test_a_page_has_every_finding_under_its_work():
    text = page([Finding(work=work, theirs=f"theirs {i}", ours="ours", agrees=i != 1) for i, work in enumerate(WORKS)])
    sections = text.split("## ")[1:]
    assert [section.count("| theirs") - 1 for section in sections] == [1] * len(WORKS)
    assert "| theirs 1 | ours | differs | |" in text
    assert "| theirs 0 | ours | agrees | |" in text


def test_batches_do_what_was_found():
    found = list(by_batch())
    assert len(found) == 3
    assert all(each.agrees for each in found)


@pytest.mark.slow
def test_what_technology_does_is_found_again():
    differing = [each.theirs for each in technology() if not each.agrees]
    assert differing == ["A100 to B200: about 35 x"]


@pytest.mark.slow
def test_every_work_is_restated():
    found = findings()
    assert {each.work for each in found} == set(WORKS)
    assert all(each.why for each in found if not each.agrees)


@pytest.mark.parametrize(("widest", "holds"), [(29.0, True), (31.0, None)])
def test_what_is_not_known_answers_no_claim(monkeypatch, widest, holds):
    def check(tp, pp, predicted):
        run = SimpleNamespace(model="meta-llama/Llama-2-7b-hf", tp=tp, pp=pp)
        ends = {"low": predicted / 2.0, "high": predicted * (widest if tp == 4 else 2.0)}
        return SimpleNamespace(run=run, predicted=predicted, measured=50.0, **ends)

    cells = [check(1, 1, 60.0), check(2, 1, 90.0), check(4, 1, 120.0), check(1, 2, 50.0), check(1, 4, 40.0)]
    monkeypatch.setattr("advisor.validation.published_claims.layer_split_checks", lambda _: cells)
    above, rising = layer_split_claims(None)
    assert above.holds is rising.holds is holds
    assert ("TP4: measured 50, not known" in above.detail) == (holds is None)
    assert "TP2: measured 50, predicted 90 (45-180)" in above.detail
    assert rising.detail == f"Llama-2-7b-hf 60, 90, {'120' if holds else 'not known'} tok/s"
    text = page([Finding(work=next(iter(WORKS)), theirs="theirs", ours="ours", agrees=holds)])
    assert ("not answered" in text) == (holds is None)
