"""Server time of the planning app: ``python -m benchmarks.app``.

Runs the pages as the server does, without a browser: a first visit of Recommend, and Explore redrawn after each move of a
slider, every time to a place it has not been. Exits with 1 where the median redraw takes more than 300 ms.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

MOST_MS = 300.0
"""A redraw that takes longer is felt as waiting."""
MOVES = (
    ("batch", (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 64, 96, 128)),
    ("input_len", (128, 192, 256, 384, 512, 768, 1536, 2048, 3072)),
    ("output_len", (16, 32, 48, 64, 96, 128, 192, 384, 512)),
    ("tp", (2, 4, 8)),
    ("pp", (2, 4)),
    ("dp", (2, 4)),
    ("bandwidth", (50, 75, 150, 200, 300)),
)
"""Sliders of Explore and where each is moved."""


def explored(*, compare: bool, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each redraw, by slider; ``compare``: two deployments beside each other."""
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats):
        test = AppTest.from_function(page, args=("exploration",), default_timeout=60)
        test.query_params["gpu"] = "H200-SXM"
        test.query_params["compare"] = str(compare).lower()
        test.query_params["gpu_b"] = ("H100-SXM", "A100-SXM-80GB", "B200-SXM")[repeat % 3]
        test.run()
        for name, places in MOVES:
            for place in places:
                slider = test.slider(name) if name == "bandwidth" else test.select_slider(name)
                taken.setdefault(name, []).append(timed(slider.set_value(place).run))
                assert not test.exception
    return taken


def page(name: str) -> None:
    import importlib  # noqa: PLC0415  the page's script is the source of this function

    from app.frame import framed  # noqa: PLC0415

    framed(importlib.import_module(f"app.{name}").show)()


def timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def first_visit() -> tuple[float, float]:
    """Milliseconds until the first page of a fresh server is done, imports included, and of the next visitor's."""
    main = str(Path(__file__).resolve().parents[1] / "app" / "main.py")
    first, second = (timed(AppTest.from_file(main, default_timeout=60).run) for _ in range(2))
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)  # Streamlit's about a thread that is none of a server's
    first, second = first_visit()
    print(f"Recommend, first visit of a fresh server {first:7.0f} ms, the next one's {second:5.0f} ms")
    slow = False
    for compare in (False, True):
        taken = explored(compare=compare, repeats=chosen.repeats)
        every = sorted(time for times in taken.values() for time in times)
        median, tail = statistics.median(every), every[int(0.95 * len(every))]
        slow |= median > MOST_MS
        by_slider = ", ".join(f"{name} {statistics.median(times):.0f}" for name, times in taken.items())
        what = "two deployments" if compare else "one deployment"
        print(f"Explore, {what}: median {median:.0f} ms, 95% under {tail:.0f} ms of {len(every)} redraws ({by_slider})")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
