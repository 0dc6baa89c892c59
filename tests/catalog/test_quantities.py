"""Quantities: what people write is read in the unit that follows, and nothing else is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError
from catalog.quantities import (
    COUNT,
    GIBIBYTES,
    GIGABYTES_PER_SECOND,
    MILLISECONDS,
    PER_SECOND,
    SECONDS,
    SHARE,
    USD_PER_HOUR,
)


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (COUNT, "128k", 128_000),
        (COUNT, "128K", 131_072),
        (COUNT, "1,024", 1024),
        (COUNT, "25.6k", 25_600),
        (COUNT, " 7 ", 7),
        (MILLISECONDS, "200ms", 200.0),
        (MILLISECONDS, "1.5s", 1500.0),
        (MILLISECONDS, "50", 50.0),
        (SECONDS, "5min", 300.0),
        (SECONDS, "1h", 3600.0),
        (PER_SECOND, "300/min", 5.0),
        (PER_SECOND, "18k/h", 5.0),
        (PER_SECOND, "60rpm", 1.0),
        (USD_PER_HOUR, "$3/h", 3.0),
        (USD_PER_HOUR, "$1,460/month", 2.0),
        (USD_PER_HOUR, "2.5 USD/hr", 2.5),
        (GIBIBYTES, "30GB", 30e9 / 2**30),
        (GIBIBYTES, "80GiB", 80.0),
        (GIGABYTES_PER_SECOND, "3.35TB/s", 3350.0),
        (SHARE, "90%", 0.9),
    ],
)
def test_what_people_write_is_read(quantity, text, value):
    assert quantity.read(text) == pytest.approx(value, rel=1e-12)
    assert isinstance(quantity.read(text), int) is quantity.whole


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (COUNT, "1.5"),
        (COUNT, "12x"),
        (COUNT, ""),
        (COUNT, "k"),
        (COUNT, "1,02"),
        (MILLISECONDS, "5 apples"),
        (MILLISECONDS, "ms"),
        (PER_SECOND, "5/fortnight"),
        (USD_PER_HOUR, "$"),
        (SHARE, "9o%"),
        (COUNT, "1.2345k"),
        (COUNT, "1e999"),
        (COUNT, "1e308k"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(quantity, text):
    with pytest.raises(InputError, match="such as") as error:
        quantity.read(text, "it")
    assert "\n" not in str(error.value)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    for quantity in (COUNT, MILLISECONDS, USD_PER_HOUR):
        try:
            value = quantity.read(text)
        except InputError:
            continue
        assert isinstance(value, (int, float))


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_units_of_one_kind_agree(value):
    assert math.isclose(MILLISECONDS.read(f"{value!r}s"), MILLISECONDS.read(repr(value)) * 1e3)
    assert math.isclose(GIBIBYTES.read(f"{value!r}TB"), 1e3 * GIBIBYTES.read(f"{value!r}GB"))
