"""Print what a new release changes against the catalog: ``python -m catalog.engines.wheel_facts WHEEL``.

Exits with 1 where a fact differs or its place in the source is another one now.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from catalog.engines.expert_kernels import TUNED
from catalog.engines.registry import find_engine
from catalog.engines.wheel_facts import sglang, vllm
from catalog.engines.wheel_facts.facts import ComparedFact, Fact, compare
from catalog.engines.wheel_facts.options import command_options
from catalog.engines.wheel_facts.tuned_experts import write_tables
from catalog.engines.wheel_facts.wheel import MissingFactError, open_wheel
from catalog.errors import InputError

ROOTS = {"vllm": "vllm/", "sglang": "sglang/srt/"}
"""Folder of a wheel that paths are inside of."""
FACTS: dict[str, tuple[Fact, ...]] = {"vllm": vllm.FACTS, "sglang": sglang.FACTS}
_MOST_LINES = 12


def report(comparisons: list[ComparedFact]) -> str:
    """Write a line a fact, and what differs below it."""
    width = max(len(comparison.name) for comparison in comparisons)
    lines = []
    for comparison in comparisons:
        first = f"{comparison.verdict:9}  {comparison.name:{width}}  "
        if comparison.verdict == "same":
            lines.append(f"{first}{comparison.lines[0]}")
            continue
        lines.append(f"{first}({comparison.path})")
        lines += [f"{'':11}{line}" for line in comparison.lines[:_MOST_LINES]]
        if len(comparison.lines) > _MOST_LINES:
            lines.append(f"{'':11}and {len(comparison.lines) - _MOST_LINES} more")
    other = sum(comparison.verdict != "same" for comparison in comparisons)
    lines.append(f"{len(comparisons) - other} of {len(comparisons)} facts are the same")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 where all facts are the same, 1 where some are not, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m catalog.engines.wheel_facts", description=__doc__)
    parser.add_argument("wheel", type=Path, help="a wheel of vLLM or SGLang; nothing of it is run")
    parser.add_argument(
        "--options",
        action="store_true",
        help="print the options of its command instead, as JSON (tests/catalog/engine_options)",
    )
    parser.add_argument(
        "--tuned-experts", action="store_true", help=f"write {TUNED.name} of the catalog anew instead, from one of vLLM"
    )
    chosen = parser.parse_args(arguments)
    try:
        wheel = open_wheel(chosen.wheel, ROOTS)
        if chosen.options:
            recorded = {"engine": wheel.engine, "version": wheel.version, "options": command_options(wheel)}
            print(json.dumps(recorded, indent=0, sort_keys=True))
            return 0
        if chosen.tuned_experts:
            print(f"{write_tables(wheel)} tables")
            return 0
    except (InputError, MissingFactError) as error:
        print(error, file=sys.stderr)
        return 2
    engine = find_engine(wheel.engine)
    comparisons = [compare(fact, engine, wheel) for fact in FACTS[wheel.engine]]
    print(report(comparisons))
    return int(any(comparison.verdict != "same" for comparison in comparisons))


if __name__ == "__main__":
    sys.exit(main())
