"""What ships about models, GPUs and engines left out: read as written, and never shown for another surrogate."""

from dataclasses import replace

import pytest

from advisor.validation import holdout as left_out
from advisor.validation.holdout import HoldoutErrors, digest, holdout_errors

SHIPPED = HoldoutErrors.from_json(left_out.SHIPPED.read_text(encoding="utf-8"))


def test_it_is_read_as_it_was_written():
    assert HoldoutErrors.from_json(SHIPPED.to_json()) == SHIPPED
    assert SHIPPED.to_json() == left_out.SHIPPED.read_text(encoding="utf-8")


def test_it_covers_each_kind_and_the_engines_add_up():
    values = {(row.group["split"], row.group["engine"], row.group["metric"]): row for row in SHIPPED.rows}
    assert {split for split, _, _ in values} == set(left_out.SPLITS)
    for (split, engine, metric), row in values.items():
        assert row.coverage_low <= row.coverage <= row.coverage_high
        if engine == "all":
            parts = [r.checks for (s, e, m), r in values.items() if (s, m) == (split, metric) and e != "all"]
            assert row.checks == sum(parts)


@pytest.mark.parametrize("same", [True, False])
def test_it_is_about_the_surrogate_that_ships_or_it_is_not_shown(tmp_path, monkeypatch, same):
    path = tmp_path / "left_out.json"
    path.write_text(replace(SHIPPED, surrogate=digest() if same else "0" * 16).to_json(), encoding="utf-8")
    monkeypatch.setattr(left_out, "SHIPPED", path)
    assert (holdout_errors() is not None) is same
