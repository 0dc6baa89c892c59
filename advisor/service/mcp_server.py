"""``advisor mcp``: the questions as tools of the Model Context Protocol, for agents."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from advisor.render.formats import finite
from advisor.service.questions import QUESTIONS, summary
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp.server.mcpserver import MCPServer

    from advisor.service.questions import Question

INSTRUCTIONS = (
    "Answers how to serve large language models on GPUs: which GPUs, layout, batch, throughput, latency, cost, with 90% intervals. "
    "Ask which to compare models and GPUs, recommend for one model on given GPUs, plan for a request rate."
)
DIGITS = 4


def server() -> MCPServer:
    """Return the server with a tool for each question."""
    from mcp.server.mcpserver import MCPServer

    served = MCPServer("advisor", instructions=INSTRUCTIONS)
    for question in QUESTIONS.values():
        served.add_tool(
            _tool(question), name=question.name, description=" ".join((question.body.__doc__ or "").split())
        )
    return served


def _tool(question: Question) -> Callable[..., dict[str, Any]]:
    """Return the question as a function whose parameters are the fields of its body."""
    from mcp.server.mcpserver.exceptions import ToolError

    def tool(**asked: Any) -> dict[str, Any]:
        body = question.body(**{name: value for name, value in asked.items() if value is not None})
        try:
            answer = question.answer(body)
        except InputError as error:
            raise ToolError(str(error)) from error
        rows: list[dict[str, Any]] = finite(question.rows(answer), digits=DIGITS)
        return {"summary": summary(answer), "rows": rows}

    parameters = []
    for name, field in question.body.model_fields.items():
        kind = Annotated[field.annotation, *field.metadata, Field(description=field.description)]  # type: ignore[name-defined]
        default = inspect.Parameter.empty if field.is_required() else field.default
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    tool.__name__, tool.__doc__ = question.name, question.body.__doc__
    tool.__signature__ = inspect.Signature(parameters, return_annotation=dict[str, Any])  # type: ignore[attr-defined]
    tool.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {
        "return": dict[str, Any]
    }
    return tool
