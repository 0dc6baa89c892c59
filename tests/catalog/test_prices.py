"""Prices: real ones by themselves, illustrative ones only when asked for."""

import datetime as dt
import sys
import types

import pytest

from catalog import price_feed
from catalog.errors import InputError
from catalog.gpus import all_gpus
from catalog.price_feed import offers
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


def item(**changes):
    """An entry as ``gpuhunt.CatalogItem`` has it."""
    facts = {
        "provider": "somecloud",
        "instance_name": "gpu-1",
        "location": "eu",
        "price": 2.0,
        "cpu": 8,
        "memory": 64.0,
        "gpu_count": 1,
        "gpu_name": "H100",
        "gpu_memory": 80.0,
        "spot": False,
    }
    return types.SimpleNamespace(**facts | changes)


def test_offers_of_clouds_become_prices():
    found = offers(
        [
            item(),
            item(price=24.0, gpu_count=8, instance_name="gpu-8"),
            item(price=1.0, spot=True),
            item(instance_name="H100-PCIe-1", price=1.7),
            item(gpu_name="RTX4090", gpu_memory=24.0, price=0.5),
            item(gpu_name="A100", gpu_memory=40.0, price=1.1),
            item(gpu_name="H100", gpu_memory=40.0, price=0.1),  # half of one
            item(gpu_name="Nobody1", gpu_memory=40.0),
            item(price=0.0),
        ],
        today=dt.date(2026, 11, 1),
    )
    assert [(price.gpu, price.kind, price.usd_per_gpu_hour) for price in found] == [
        ("A100-SXM-40GB", "on-demand", 1.1),
        ("H100-PCIE", "on-demand", 1.7),
        ("H100-SXM", "spot", 1.0),
        ("H100-SXM", "on-demand", 2.0),
        ("RTX 4090", "on-demand", 0.5),
    ]
    assert {price.as_of for price in found} == {"2026-11-01"}


def test_a_refresh_is_kept_as_ones_own_prices(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    monkeypatch.setattr(price_feed, "_fetched", lambda: [item(gpu_name="A10G", gpu_memory=24.0, price=0.77)])
    path, fetched = price_feed.refresh_prices()
    assert path == tmp_path / "prices" / "gpuhunt.toml"
    assert prices_for("A10G") == fetched
    assert cheapest("A10G").usd_per_gpu_hour == 0.77
    price_feed.refresh_prices()
    assert prices_for("A10G") == fetched


def test_without_a_network_a_refresh_is_one_line(tmp_path, monkeypatch):
    class Catalog:
        def __init__(self, **_):
            pass

        def query(self, **_):
            raise OSError("Failed to load catalogs of all providers\nmore")

    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gpuhunt", types.SimpleNamespace(Catalog=Catalog))
    with pytest.raises(InputError, match=r"cannot be fetched .*the prices that ship stay") as caught:
        price_feed.refresh_prices()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "prices").exists()
    monkeypatch.setitem(sys.modules, "gpuhunt", None)
    with pytest.raises(InputError, match="pip install 'advisor"):
        price_feed.refresh_prices()
