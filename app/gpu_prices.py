"""The page GPUs and prices: what is known of every GPU, what it costs to rent, and what one of your own costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

import advisor
from advisor.render.answers.catalog import gpu_columns, gpu_facts, price_columns, price_facts, shown_value
from advisor.render.numbers import dollars
from app import inputs
from app.downloads import downloads
from app.frame import keep_for_other_pages
from app.plain_text import plain
from app.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PICK = "of_gpu"
"""Key of the GPU shown in detail."""
ROUND = "illustrative"


def show() -> None:
    """Show one of the three views."""
    chosen = st.segmented_control(
        "GPUs and prices",
        list(VIEWS),
        default="GPUs",
        required=True,
        key="prices_view",
        bind=inputs.BIND,
        label_visibility="collapsed",
    )
    VIEWS[chosen]()


def _gpus() -> None:
    """List every GPU, and all that is known of one."""
    gpus = sorted(inputs.gpus().values(), key=lambda gpu: -gpu.memory_bandwidth_gbps)
    table(
        gpu_columns(gpus),
        "gpus",
        alt="GPUs with their memory, bandwidth and arithmetic",
        pick=lambda row: st.session_state.update({PICK: gpus[row].name}),
        height=380,
    )
    st.caption(
        "16-bit and 8-bit arithmetic without sparsity; bandwidth of links in one direction. Select a row for all of it."
    )
    gpu = inputs.gpus()[inputs.shown_in_detail("In detail", PICK, [gpu.name for gpu in gpus], None)]
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown(f"### {plain(gpu.name)}")
        st.markdown(
            "\n".join(
                f"- **{plain(name)}** {plain(shown_value(name, value))}" for name, value in gpu_facts(gpu).items()
            )
        )
    with right:
        st.markdown("### What it costs")
        offers = [price for price in advisor.all_prices() if price.gpu == gpu.name]
        if offers:
            table(price_columns(sorted(offers, key=_dearness)), "offers", alt=f"Prices of {gpu.name}")
        else:
            st.info(f"No price of it is known. State one on each page, or add it to {_file()}.", icon=":material/info:")
    downloads(
        "gpus", frame=pd.DataFrame([gpu_facts(gpu) for gpu in gpus]), body=lambda: {"gpus": list(map(gpu_facts, gpus))}
    )


def _dearness(price: advisor.Price) -> tuple[bool, float]:
    return price.illustrative, price.usd_per_gpu_hour


def _file() -> str:
    return "prices.toml in $ADVISOR_HOME"


def _offers() -> None:
    """List every price, narrowed by GPU, kind and provider."""
    prices: Sequence[advisor.Price] = sorted(advisor.all_prices(), key=lambda price: (price.gpu, *_dearness(price)))
    filters: dict[str, tuple[str, Callable[[advisor.Price], str]]] = {
        "priced_gpu": ("GPU", lambda price: price.gpu),
        "priced_kind": ("Kind", lambda price: ROUND if price.illustrative else price.kind),
        "provider": ("Provider", lambda price: price.provider),
    }
    with st.container(horizontal=True):
        for key, (label, value) in filters.items():
            picked = st.multiselect(
                label, sorted({value(price) for price in prices}), key=key, bind=inputs.BIND, placeholder="all"
            )
            prices = [price for price in prices if not picked or value(price) in picked]
    if not prices:
        st.info("No price matches all filters. Remove one.", icon=":material/filter_alt_off:")
        return
    table(price_columns(prices), "prices table", alt="Prices, cheapest first", height=430)
    st.caption(
        "Dollars for one GPU and hour, as published on the day that is stated. Spot offers can be withdrawn and illustrative ones are "
        f"round figures: neither is used unless it is stated. Your own go to {plain(_file())} (advisor catalog prices --help)."
    )
    rows = [price_facts(price) for price in prices]
    downloads("prices", frame=pd.DataFrame(rows), body=lambda: {"prices": rows})


def _own() -> None:
    """Ask what a GPU of one's own costs, and hand its price to the other pages."""
    owned = _asked()
    price = owned.price()
    left, right = st.columns(2, gap="medium")
    with left:
        st.metric("For each hour in which it serves", plain(dollars(price.usd_per_gpu_hour)), width="content")
        st.caption(plain(f"{price.instance}."))
        if st.button("Use this price on the other pages", key="use price", type="primary", icon=":material/payments:"):
            _keep(owned.gpu, round(price.usd_per_gpu_hour, 4))
    with right:
        st.markdown(f"For every later answer, add this to {plain(_file())}:")
        st.code(_toml(owned), language="toml")


def _asked() -> advisor.OwnedGpu:
    names = list(inputs.gpus())
    with st.container(border=True):
        with st.container(horizontal=True):
            gpu = st.selectbox(
                "GPU", names, index=names.index(inputs.GPU) if inputs.GPU in names else 0, key="gpu", bind=inputs.BIND
            )
            why = "Of the GPU and its share of server, network and room."
            capital = inputs.number("Capital, $", "capital", (0.0, 1e7), 30000.0, 1000.0, help=why)
            years = inputs.number("Written off over, years", "years", (0.1, 20.0), 4.0, 1.0)
            why = "Share of those years in which it serves: idle time is paid for, too."
            used = inputs.number("In use, %", "used", (1, 100), 70, 5, help=why)
        with st.container(horizontal=True):
            watts = inputs.number(
                "Power, W", "watts", (0.0, 1e5), 1000.0, 50.0, help="While it serves, its share of the server included."
            )
            pue = inputs.number(
                "PUE", "pue", (1.0, 5.0), 1.3, 0.05, help="Power of the room over power of the machines."
            )
            kwh = inputs.number("$ per kWh", "kwh", (0.0, 10.0), 0.15, 0.01)
            rest = inputs.number("Other, $ a year", "rest", (0.0, 1e7), 1000.0, 100.0, help="Space, people, support.")
    return advisor.OwnedGpu(
        gpu=gpu,
        capital_usd=capital,
        years=years,
        utilisation=used / 100,
        power_w=watts,
        pue=pue,
        usd_per_kwh=kwh,
        usd_per_year=rest,
    )


def _keep(gpu: str, usd: float) -> None:
    keep_for_other_pages({"prices": f"{gpu}={usd:g}", "price": usd, "gpu": gpu})
    st.success(f"Other pages of this session use {plain(dollars(usd))} for {plain(gpu)}.", icon=":material/payments:")


def _toml(owned: advisor.OwnedGpu) -> str:
    fields: dict[str, Any] = {
        "gpu": f'"{owned.gpu}"',
        **{
            name: f"{getattr(owned, name):g}"
            for name in ("capital_usd", "years", "utilisation", "power_w", "pue", "usd_per_kwh", "usd_per_year")
        },
    }
    return "\n".join(["[[owned]]", *(f"{name} = {value}" for name, value in fields.items())])


VIEWS = {"GPUs": _gpus, "Prices": _offers, "A GPU of your own": _own}
