"""The page GPUs and prices without a browser: what the catalog holds, and what a GPU of one's own costs."""

import pytest

import advisor


def test_every_gpu_is_listed_and_one_is_shown_with_its_offers(page):
    test = page("gpu_prices", of_gpu="H200-SXM")
    assert not test.exception
    assert sorted(test.dataframe[0].value["GPU"]) == sorted(gpu.name for gpu in advisor.all_gpus())
    offers = [price for price in advisor.all_prices() if price.gpu == "H200-SXM"]
    assert len(test.dataframe[1].value) == len(offers) > 0
    assert "memory\\_bandwidth\\_gbps** 4800" in " ".join(each.value for each in test.markdown)


def test_prices_are_narrowed(page):
    test = page("gpu_prices", prices_view="Prices", priced_gpu="H100-SXM", priced_kind="spot")
    expected = [price for price in advisor.all_prices() if price.gpu == "H100-SXM" and price.kind == "spot"]
    assert len(test.dataframe[0].value) == len([each for each in expected if not each.illustrative])


def test_a_gpu_of_one_s_own_has_a_price_that_other_pages_use(page):
    test = page(
        "gpu_prices",
        prices_view="A GPU of your own",
        gpu="H100-SXM",
        capital="35040",
        years="4",
        used="100",
        watts="1000",
        pue="1",
        kwh="0.1",
        rest="0",
    )
    assert not test.exception
    assert test.metric[0].value.replace("\\", "") == "$1.10"  # a dollar of capital and ten cents of power an hour
    assert "[[owned]]" in test.code[0].value
    test.button("use price").click().run()
    kept = test.session_state["kept for other pages"]
    assert (kept["prices"], kept["price"]) == ("H100-SXM=1.1", pytest.approx(1.1))


def test_the_table_to_add_is_read_as_the_same_price(page, home):
    test = page("gpu_prices", prices_view="A GPU of your own", gpu="H100-SXM")
    home.mkdir(parents=True, exist_ok=True)
    (home / "prices.toml").write_text(test.code[0].value)
    (owned,) = [price for price in advisor.all_prices() if price.kind == "owned"]
    assert f"${owned.usd_per_gpu_hour:.2f}" == test.metric[0].value.replace("\\", "")
