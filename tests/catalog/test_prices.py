"""Prices: real ones by themselves, illustrative ones only when asked for."""

import pytest

from catalog.errors import InputError
from catalog.gpus import all_gpus
from catalog.prices import SHIPPED, _read, all_prices, cheapest, prices_for, shipped_prices

PRICES = all_prices()


def test_shipped_prices_stand_the_checks_of_ones_own():
    assert _read(SHIPPED, (0, 0)) == shipped_prices()


def test_every_price_is_sane_and_says_where_it_is_from():
    names = {gpu.name for gpu in all_gpus()}
    assert len(PRICES) >= 28
    for price in PRICES:
        assert price.gpu in names
        assert 0.05 < price.usd_per_gpu_hour < 20
        assert price.source
        assert price.as_of


def test_dearer_generations_cost_more():
    assert cheapest("H100").usd_per_gpu_hour < cheapest("H200").usd_per_gpu_hour < cheapest("B200").usd_per_gpu_hour


def test_illustrative_prices_come_only_when_asked_for():
    assert prices_for("A10G") == ()
    assert cheapest("A10G") is None
    (price,) = prices_for("A10G", illustrative=True)
    assert price.illustrative
    assert not any(price.illustrative for price in prices_for("H100"))
    assert all(price.illustrative for price in prices_for("H100", illustrative=True))


def test_a_round_figure_never_takes_the_place_of_an_offer():
    assert cheapest("A10G", illustrative=True).illustrative
    for name in ("H100", "L40S", "B200"):
        assert cheapest(name, illustrative=True) == cheapest(name)


def test_the_cheapest_is_on_demand_and_says_which():
    best = cheapest("H100")
    assert (best.kind, best.provider) == ("on-demand", "Verda")
    on_demand = [price for price in prices_for("H100") if price.kind == "on-demand"]
    assert best == min(on_demand, key=lambda price: price.usd_per_gpu_hour)
    assert prices_for("H100")[0].kind == "spot", "cheaper, but never chosen"


def test_one_provider():
    assert {price.provider for price in prices_for("H100", provider="nebius")} == {"Nebius"}
    with pytest.raises(InputError, match="closest: Nebius"):
        prices_for("H100", provider="nebbius")


def test_a_what_if_costs_what_the_real_one_does():
    assert cheapest("H100-SXM (memory_bandwidth_gbps=6000)") == cheapest("H100-SXM")


def test_own_prices(home):
    home.mkdir()
    (home / "prices.toml").write_text('[[prices]]\ngpu = "A100-SXM-80GB"\nusd_per_gpu_hour = 1\nprovider = "ours"\n')
    assert cheapest("A100").provider == "ours"


def test_own_machines_cost_capital_power_and_idle_time(home):
    home.mkdir()
    table = '[[owned]]\ngpu = "H100-SXM"\ncapital_usd = 35040\nyears = 4\nutilisation = 0.5\n'
    (home / "prices.toml").write_text(table + "power_w = 1000\npue = 1.5\nusd_per_kwh = 0.2\n")
    own = cheapest("H100")
    assert own.kind == "owned"
    assert own.usd_per_gpu_hour == pytest.approx(35040 / 4 / 8760 / 0.5 + 1.0 * 1.5 * 0.2)
    assert "owned" in own.offer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[prices]]\ngpu = "H100-SXM"\n', "usd_per_gpu_hour, provider are missing"),
        ('[[prices]]\ngpu = "H100-SXM"\nusd_per_gpu_hour = -1\nprovider = "x"\n', "above 0"),
        ('[[prices]]\ngpu = "H100-SXM"\nusd_per_gpu_hour = nan\nprovider = "x"\n', "finite number"),
        (
            '[[prices]]\ngpu = "H100-SXM"\nusd_per_gpu_hour = 1\nprovider = "x"\nkind = "gift"\n',
            "'reserved', 'rental' or 'owned'",
        ),
        ('[[prices]]\ngpu = "H100-SXM"\nusd = 1\n', "unknown field 'usd'"),
        ("prices = 3\n", r"\[\[prices\]\]"),
    ],
)
def test_bad_prices_are_one_line(home, text, words):
    home.mkdir()
    (home / "prices.toml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        all_prices()
    assert "\n" not in str(caught.value)
