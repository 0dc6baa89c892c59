"""The agents' server, driven by the official client."""

import asyncio

import pytest

pytest.importorskip("mcp")

from mcp.client import Client

from advisor.service.mcp_server import server


def called(name, arguments):
    async def run():
        async with Client(server()) as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(run())


def test_there_is_a_tool_for_each_question():
    async def run():
        async with Client(server()) as client:
            return await client.list_tools()

    tools = {tool.name: tool for tool in asyncio.run(run()).tools}
    assert set(tools) == {"which", "recommend", "estimate", "simulate", "plan"}
    for tool in tools.values():
        assert tool.description
        assert "model" in tool.input_schema["properties"] or "models" in tool.input_schema["properties"]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("recommend", {"model": "llama-3.1-8b", "gpus": "1xH100", "tpot": "30ms"}, "vllm serve"),
        ("which", {"models": "llama-3.1-8b", "gpus": "1xH100,1xL4"}, "L4"),
        ("estimate", {"model": "llama-3.1-8b", "gpus": "1xH100", "batch": 8}, "TTFT"),
    ],
)
def test_a_tool_answers_as_the_terminal_does(name, arguments, told):
    found = called(name, arguments)
    assert not found.is_error
    assert told in found.structured_content["summary"]
    assert found.structured_content["rows"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"model": "no-such-model-9", "gpus": "1xH100"}, "no-such-model-9"), ({"model": "llama-13b"}, "gpus")],
)
def test_what_cannot_be_is_an_error_of_the_tool(arguments, told):
    found = called("recommend", arguments)
    assert found.is_error
    assert told in str(found.content)
