"""The stand-in for an engine's server: its answers, its pace, and that it batches."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.standin_server import Pace, serving

PACE = Pace(step_s=0.01, step_s_per_seq=0.0, prefill_s_per_token=0.0, max_num_seqs=2, failing=frozenset({3}))


def ask(url, path, **body):
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def events(text):
    *lines, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in lines]


def test_it_streams_tokens_and_usage_batches_two_and_fails_when_told():
    with serving(PACE, model="m") as url:
        told = {"max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
        *tokens, usage = events(ask(url, "/v1/completions", prompt="four words of prompt", **told))
        assert [each["choices"][0]["text"].strip() for each in tokens] == ["w1", "w2", "w3", "w4", "w5"]
        assert usage["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
        message = [{"role": "user", "content": "two words"}]
        *tokens, usage = events(ask(url, "/v1/chat/completions", messages=message, **told))
        assert len([each["choices"][0]["delta"]["content"] for each in tokens]) == 5
        assert usage["usage"]["prompt_tokens"] == 2
        whole = json.loads(ask(url, "/v1/completions", prompt=[7, 8, 9], max_tokens=2))
        assert whole["usage"]["total_tokens"] == 5
        with pytest.raises(urllib.error.HTTPError, match="500"):
            ask(url, "/v1/completions", prompt="x", max_tokens=1)
        with urllib.request.urlopen(url + "/v1/models", timeout=20) as answer:
            assert json.loads(answer.read())["data"][0]["id"] == "m"
        began = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: ask(url, "/v1/completions", prompt="x", max_tokens=10), range(4)))
        assert time.perf_counter() - began >= 2 * 10 * 0.01  # two at a time, ten steps each
