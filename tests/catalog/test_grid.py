"""CO2 of electricity: numbers and countries, and what no grid has."""

import math

import pytest

from catalog.errors import InputError
from catalog.grid import countries, read_grid


def test_a_number_and_a_country():
    assert read_grid("0.38").kg_co2_per_kwh == 0.38
    france = read_grid("france", 1.2)
    assert (france.where, france.kg_co2_per_kwh, france.pue) == ("France", 0.056, 1.2)
    assert read_grid("USA").where == "United States"


def test_kilograms_of_a_million_tokens():
    # 3.6 J a token are 1 kWh a million
    assert math.isclose(read_grid("0.5", 1.1).kg_per_mtok(3.6), 0.55)


def test_every_country_is_within_what_fuels_emit():
    assert len(countries()) > 200
    for name, intensity, year in countries().values():
        assert name
        assert 0.0 <= intensity < 1.4
        assert 2021 <= year <= 2026


@pytest.mark.parametrize(
    ("text", "pue", "message"),
    [
        ("380", 1.0, "380 g are 0.38"),
        ("-1", 1.0, "it must be 0 to 2"),
        ("nan", 1.0, "it must be 0 to 2"),
        ("Frnce", 1.0, "France"),
        ("0.38", 0.5, "pue is 0.5"),
    ],
)
def test_what_no_grid_has_is_one_line(text, pue, message):
    with pytest.raises(InputError, match=message) as caught:
        read_grid(text, pue)
    assert "\n" not in str(caught.value)
