"""The works behind the project, restated: what a page says, and what must come out."""

import pytest

from advisor.validation.findings import WORKS, Finding, by_batch, findings, page, technology


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
