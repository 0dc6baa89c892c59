"""The service over HTTP: the same answers, bounded, and no request that it dies of."""

import threading
import time

import pytest

import advisor
from advisor.service.questions import QUESTIONS, Question, Recommend

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402  after it is known to be there

from advisor.service.http import MOST_BYTES, service  # noqa: E402

QUESTION = {"model": "llama-3.1-8b", "gpus": "1xH100", "tpot": "30ms"}


@pytest.fixture(scope="module")
def client():
    return TestClient(service(), base_url="http://localhost", raise_server_exceptions=False)


def test_an_answer_is_the_one_of_the_library(client):
    body = client.post("/v1/recommend", json=QUESTION).json()
    alone = advisor.recommend("llama-3.1-8b", "1xH100", tpot="30ms")
    assert body["schema"] == "advisor/recommendation/1"
    assert body["version"] == advisor.__version__
    assert body["best"]["output_tok_s"] == pytest.approx(alone.best.output_tok_s, rel=1e-5)
    text = client.post("/v1/recommend?view=text", json=QUESTION)
    assert text.headers["content-type"].startswith("text/plain")
    assert text.text == alone.summary()
    assert "| " in client.post("/v1/recommend?view=markdown", json=QUESTION).text


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("which", {"models": "llama-3.1-8b", "gpus": "1xH100,1xL4", "budget": "$5/h"}),
        ("estimate", {"model": "llama-3.1-8b", "gpus": "1xH100", "batch": 8}),
        ("simulate", {"model": "llama-3.1-8b", "gpus": "1xH100", "rate": "120/min", "duration_s": 20, "draws": 0}),
        ("plan", {"model": "llama-3.1-8b", "gpus": "H100", "use": "chat", "users": 100, "draws": 0}),
    ],
)
def test_every_question_is_answered(client, name, asked):
    found = client.post(f"/v1/{name}", json=asked)
    assert found.status_code == 200, found.text
    assert found.json()["schema"].startswith("advisor/")


@pytest.mark.parametrize(
    ("asked", "code", "told"),
    [
        ({"model": "llama-13c-nope", "gpus": "1xH100"}, 400, "llama"),
        ({"model": "llama-13b", "gpus": "1xZ9"}, 400, "unknown GPU"),
        ({"model": "../../etc/passwd", "gpus": "1xH100"}, 422, "model"),
        ({"model": "/etc/config.json", "gpus": "1xH100"}, 422, "model"),
        ({"model": "llama-13b"}, 422, "gpus"),
        ({"model": "llama-13b", "gpus": "1xH100", "storage": "sqlite:///x"}, 422, "storage"),
        ({"model": "llama-13b", "gpus": "1xH100", "price": 1e400}, 422, "price"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(client, asked, code, told, tmp_path):
    import json

    found = client.post("/v1/recommend", content=json.dumps(asked), headers={"content-type": "application/json"})
    assert found.status_code == code, found.text
    assert told in found.text
    assert not (tmp_path / "x").exists()


def test_fields_are_named_like_options_and_a_malformed_body_is_told_in_a_sentence(client):
    asked = {"model": "llama-3.1-8b", "gpus": "1xH100", "weights": "fp8"}
    answer = client.post("/v1/which", json=asked)
    assert answer.status_code == 200, answer.text
    assert {row["dtype"] for row in answer.json()["rows"]} == {"fp8"}
    for body, told in (
        ({"model": "llama-3.1-8b", "budgett": 5}, "unknown field 'budgett'; closest: budget"),
        ({"model": "/etc/config.json"}, "models must be a name, never a path"),
        ([], "the body is no JSON object"),
    ):
        refused = client.post("/v1/which", json=body)
        assert refused.status_code == 422
        assert told in refused.json()["detail"].replace("model must", "models must")


def test_a_large_body_is_refused_whatever_its_header_says(client):
    assert client.post("/v1/recommend", content=b"x" * (MOST_BYTES + 1)).status_code == 413

    def pieces():
        for _ in range(10):
            yield b"y" * MOST_BYTES

    assert client.post("/v1/recommend", content=pieces()).status_code == 413


def test_layouts_are_stated_as_in_the_library(client):
    asked = {"model": "deepseek-v3", "gpus": "8xH200", "batch": 4}
    spread = client.post("/v1/estimate", json={**asked, "tp": 8, "dcp": 8}).json()
    assert spread["deployment"]["dcp"] == 8
    sent = client.post("/v1/estimate", json={**asked, "dp": 8, "ep": 8, "all2all_backend": "deepep_low_latency"}).json()
    assert sent["deployment"]["all2all_backend"] == "deepep_low_latency"


def test_pools_are_asked_for_as_in_the_library(client):
    answer = client.post("/v1/recommend", json={"model": "llama-3.1-8b", "gpus": "2xH100", "disaggregate": True})
    assert "state a limit" in answer.text


def test_other_names_are_not_served(client):
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/health").status_code == 200


def test_a_simulation_for_others_is_bounded(client):
    asked = {"model": "llama-3.1-8b", "gpus": "1xH100", "rate": 1000, "duration_s": 1800}
    found = client.post("/v1/simulate", json=asked)
    assert found.status_code == 400
    assert "at most" in found.json()["detail"]


@pytest.fixture
def slow(monkeypatch):
    """A question that takes until it is let go."""
    gate = threading.Event()

    def ask(**_):
        gate.wait(20)
        return advisor.recommend("llama-3.1-8b", "1xH100", runs=[])

    monkeypatch.setitem(QUESTIONS, "recommend", Question("recommend", Recommend, ask, lambda _: []))
    yield gate
    gate.set()


def test_a_question_that_takes_too_long_is_given_up(slow):
    with TestClient(service(timeout_s=0.2), base_url="http://localhost") as client:
        began = time.monotonic()
        assert client.post("/v1/recommend", json=QUESTION).status_code == 408
        assert time.monotonic() - began < 10
        slow.set()


def test_more_questions_than_may_wait_are_asked_to_come_back(slow):
    codes = []
    with TestClient(service(at_once=1, waiting=0), base_url="http://localhost") as client:
        first = threading.Thread(target=lambda: codes.append(client.post("/v1/recommend", json=QUESTION).status_code))
        first.start()
        time.sleep(1.0)
        busy = client.post("/v1/recommend", json=QUESTION)
        assert busy.status_code == 429
        assert busy.headers["retry-after"]
        assert client.get("/health").status_code == 200
        slow.set()
        first.join(60)
    assert codes == [200]


def test_the_names_that_may_be_asked_about(client):
    names = client.get("/v1/catalog").json()
    assert "H100-SXM" in names["gpus"]
    assert "chat" in names["uses"]


@pytest.mark.slow
def test_no_request_of_its_own_schema_brings_it_down():
    """Schemathesis draws requests from the OpenAPI document, right and wrong ones; none may be a fault of the server."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    application = service(timeout_s=20)
    schema = schemathesis.openapi.from_asgi("/openapi.json", application, headers={"host": "localhost"})
    seen = []

    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(case=operation.as_strategy())
        def check(case):
            found = case.call(headers={"host": "localhost"}, timeout=300)  # the service gives up, not the client
            seen.append(found.status_code)
            assert found.status_code < 500, (case.body, found.text)

        check()
    assert len(seen) >= 200
