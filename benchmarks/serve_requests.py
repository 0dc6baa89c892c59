"""Requests that schemathesis draws from the service's OpenAPI document, right and wrong ones: is any a fault of the server?

    python -m benchmarks.serve_requests --requests 5000

Prints how many had which status code, by question; exits with 1 where one was 500 or above. Nothing listens: the application is
called in this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Any

from advisor.service.http import service

TIMEOUT_S = 20.0
HOST = {"host": "localhost"}
MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b", "phi-4", "deepseek-v3", "falcon-7b")
GPUS = ("1xH100", "8xH200", "2xL4", "4xMI300X", "2x8xH100", "1xRTX4090")


def known(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Return names of the catalog for the fields that a body has."""
    model, gpus = MODELS[number % len(MODELS)], GPUS[number % len(GPUS)]
    names = {"model": model, "models": model, "gpus": gpus, "engine": "vllm"}
    return {name: value for name, value in names.items() if name in body}


def answered(requests: int) -> tuple[dict[str, Counter[int]], list[str]]:
    """Send so many requests, spread over the operations; return the status codes by operation, and faults."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", service(timeout_s=TIMEOUT_S), headers=HOST)
    operations = [result.ok() for result in schema.get_all_operations()]
    codes: dict[str, Counter[int]] = {operation.path: Counter() for operation in operations}
    faults: list[str] = []
    sent = 0
    seed = 0
    while sent < requests:
        seed += 1
        for operation in operations:

            @settings(
                max_examples=max(1, min(50, requests - sent)),
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            @given(case=operation.as_strategy())
            def check(case: Any) -> None:
                nonlocal sent
                if sent >= requests:
                    return
                if sent % 2 and isinstance(
                    case.body, dict
                ):  # drawn names are nobody's: every second question has real ones
                    case.body = case.body | known(case.body, sent)
                path = case.operation.path
                found = case.call(headers=HOST, timeout=300)  # the service gives up, not the client
                sent += 1
                codes[path][found.status_code] += 1
                if found.status_code >= 500:
                    faults.append(f"{path} {case.body!r:.500}: {found.text:.200}")

            check()
    return codes, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    wanted = parser.parse_args().requests
    began = time.perf_counter()
    codes, faults = answered(wanted)
    for path, counts in codes.items():
        print(f"{path}: {', '.join(f'{code}: {count}' for code, count in sorted(counts.items()))}")
    total = sum(sum(counts.values()) for counts in codes.values())
    print(f"{total} requests, {len(faults)} faults of the server, {time.perf_counter() - began:.0f} s")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
