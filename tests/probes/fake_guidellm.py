"""A stand-in for GuideLLM 0.8: it makes real requests, for a few tenths of a second, and writes a report of its shape.

``script`` puts it on the path as ``guidellm``. Warm-up and cool-down are left out here; ``FAKE_GUIDELLM`` in the environment
names profiles (``--profile``) at which it fails.
"""

import json
import os
import random
import statistics
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "catalog" / "benchmarks" / "guidellm-closed.json"
LONGEST_S = 0.5


def script(folder):
    """Write the program into a folder for the path."""
    path = folder / "guidellm"
    path.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n")
    path.chmod(0o755)


def settings(words):
    return dict(part.split("=", 1) for part in words.split(","))


def request(url, model, data):
    """Seconds when it was sent, and when its first and last token came; prompt and output tokens as the server counts."""
    body = {
        "model": model,
        "prompt": "word " * int(data["prompt_tokens"]),
        "max_tokens": int(data["output_tokens"]),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent, times, usage = time.perf_counter(), [], {}
    asked = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=30) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                message = json.loads(line[6:])
                usage = message.get("usage") or usage
                times += [time.perf_counter()] if message["choices"] else []
    return sent, times[0], times[-1], usage["prompt_tokens"], usage["completion_tokens"]


def traffic(profile, seconds, once):
    """Requests that were completed, in closed loops or as they arrive."""
    began, done, threads = time.perf_counter(), [], []

    def loop():
        while time.perf_counter() < began + seconds:
            done.append(once())

    def start(target):
        threads.append(threading.Thread(target=target))
        threads[-1].start()

    if "streams" in profile:
        for _ in range(int(profile["streams"])):
            start(loop)
    else:
        at = began + random.expovariate(float(profile["rate"]))
        while at < began + seconds:
            time.sleep(max(0.0, at - time.perf_counter()))
            start(lambda: done.append(once()))
            at += random.expovariate(float(profile["rate"]))
    for thread in threads:
        thread.join()
    return done, time.perf_counter() - began


def main():
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    if options["--profile"] in os.environ.get("FAKE_GUIDELLM", "").split(";"):
        sys.exit("the server went away")
    backend, profile = settings(options["--backend"]), settings(options["--profile"])
    data = settings(options["--data"])
    seconds = min(float(settings(options["--constraint"])["seconds"]), LONGEST_S)
    done, duration = traffic(profile, seconds, lambda: request(backend["target"], backend["model"], data))
    report = json.loads(RECORDED.read_text())
    benchmark = report["benchmarks"][0]
    report["benchmarks"] = [benchmark]
    streams = int(profile.get("streams", 0))
    benchmark["config"]["id_"] = str(uuid.uuid4())
    benchmark["config"]["backend"]["model"] = backend["model"]
    benchmark["config"]["strategy"] = (
        {"type_": "concurrent", "streams": streams} if streams else {"type_": "poisson", "rate": float(profile["rate"])}
    )
    benchmark["duration"], benchmark["requests"]["successful"] = duration, []
    metrics = benchmark["metrics"]
    metrics["request_concurrency"]["successful"]["max"] = streams or len(done)
    metrics["request_totals"] |= {"successful": len(done), "errored": 0}
    means = {
        "request_latency": [last - sent for sent, _, last, _, _ in done],
        "time_to_first_token_ms": [1e3 * (first - sent) for sent, first, _, _, _ in done],
        "inter_token_latency_ms": [1e3 * (last - first) / (count - 1) for _, first, last, _, count in done],
        "output_token_count": [count for *_, count in done],
        "prompt_token_count": [count for *_, count, _ in done],
    }
    for name, values in means.items():
        metrics[name]["successful"]["mean"] = statistics.fmean(values)
    metrics["output_tokens_per_second"]["successful"]["mean"] = sum(means["output_token_count"]) / duration
    Path(settings(options["--output"])["path"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
