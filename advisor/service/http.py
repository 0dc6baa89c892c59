"""``advisor serve``: the questions over HTTP, with FastAPI; bounded in size, time and number at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from advisor.render.formats import as_json
from advisor.service.questions import QUESTIONS, malformed, markdown, summary
from catalog.errors import InputError
from catalog.gpus import all_gpus
from catalog.models.find import all_models
from catalog.uses import all_uses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from fastapi import FastAPI

    from advisor.service.questions import Question

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BYTES = 64 * 1024
"""Of a request's body."""
TIMEOUT_S = 60.0
AT_ONCE = 2
"""Questions that are worked on at once: as many as cores of a small machine."""
WAITING = 8
"""Questions that may wait for their turn; more are asked to come back."""
OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""What a request may call this server, so that no foreign page reaches it through a name of its own."""
View = Literal["json", "text", "markdown"]


class Problem(BaseModel):
    """What was wrong with a request, in one line."""

    detail: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "What is asked cannot be; the detail says what would be right."},
    422: {"model": Problem, "description": "The body is malformed: the detail names the field and what it must be."},
    408: {"model": Problem, "description": "It took too long."},
    413: {"model": Problem, "description": "The request is too large."},
    429: {"model": Problem, "description": "Too many questions at once; come back."},
}


def service(
    *, hosts: tuple[str, ...] = (), timeout_s: float = TIMEOUT_S, at_once: int = AT_ONCE, waiting: int = WAITING
) -> FastAPI:
    """Return the application.

    Args:
        hosts: further names by which this server may be called.
        timeout_s: after so long a question is answered with 408; its turn ends when its work does.
        at_once: questions that are worked on at once.
        waiting: questions that may wait.

    """
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    import advisor

    app = FastAPI(
        title="advisor",
        version=advisor.__version__,
        summary="How to serve an LLM on the GPUs you have, with error bars.",
    )
    app.add_middleware(_Bounded)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*OWN_NAMES, *hosts], www_redirect=False)
    queue = _Queue(at_once=at_once, waiting=waiting, timeout_s=timeout_s)

    @app.exception_handler(InputError)
    async def refused(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        asked = QUESTIONS.get(request.url.path.rpartition("/")[2])
        return JSONResponse(
            {"detail": malformed(error.errors(), None if asked is None else asked.body)}, status_code=422
        )

    for question in QUESTIONS.values():
        app.add_api_route(
            f"/v1/{question.name}",
            _endpoint(question, queue),
            methods=["POST"],
            name=question.name,
            summary=(question.body.__doc__ or "").split("\n")[0],
            responses=RESPONSES,
            response_model=None,
        )

    @app.get("/health")
    def health() -> dict[str, str]:
        """Return the version: this server is up."""
        return {"version": advisor.__version__}

    @app.get("/v1/catalog")
    def names() -> dict[str, list[str]]:
        """Return the names of models, GPUs and uses that may be asked about."""
        return {
            "models": [model.name for model in all_models()],
            "gpus": [gpu.name for gpu in all_gpus()],
            "uses": [use.name for use in all_uses()],
        }

    return app


class _Queue:
    """Questions in progress: so many are answered at once, so many more may wait."""

    def __init__(self, *, at_once: int, waiting: int, timeout_s: float) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._timeout_s = timeout_s
        self._held = 0

    async def answer(self, question: Question, body: BaseModel, view: View) -> Any:
        """Return the response to a question, once it is its turn; the turn ends when its work does."""
        from fastapi.responses import JSONResponse, Response

        if self._held >= self._most:
            return JSONResponse(
                {"detail": "too many questions at once; come back"}, status_code=429, headers={"Retry-After": "5"}
            )
        self._held += 1
        work = asyncio.ensure_future(self._in_turn(question, body, view))
        work.add_done_callback(self._leave)
        try:
            text, kind = await asyncio.wait_for(asyncio.shield(work), self._timeout_s)
        except TimeoutError:
            return JSONResponse({"detail": f"it takes more than {self._timeout_s:g} s; ask for less"}, status_code=408)
        return Response(text, media_type=kind)

    async def _in_turn(self, question: Question, body: BaseModel, view: View) -> tuple[str, str]:
        from starlette.concurrency import run_in_threadpool

        async with self._turns:
            response: tuple[str, str] = await run_in_threadpool(_written, question, body, view)
        return response

    def _leave(self, work: asyncio.Future[tuple[str, str]]) -> None:
        self._held -= 1
        if not work.cancelled():
            work.exception()  # nobody may be left who asks for it


def _endpoint(question: Question, queue: _Queue) -> Callable[..., Awaitable[Any]]:
    async def endpoint(body: Any, view: View = "json") -> Any:
        return await queue.answer(question, body, view)

    endpoint.__annotations__ = {"body": question.body, "view": View, "return": Any}
    endpoint.__doc__ = question.body.__doc__
    return endpoint


def _written(question: Question, body: BaseModel, view: View) -> tuple[str, str]:
    """Return an answer's text and its media type; for the thread that works."""
    answer = question.answer(body)
    if view == "json":
        return as_json(answer.to_dict()), "application/json"
    return (summary(answer), "text/plain") if view == "text" else (markdown(answer), "text/markdown")


class _Bounded:
    """Refuses bodies that are too large, whatever their header says."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0
        parts: list[MutableMapping[str, Any]] = []
        while True:
            message = await receive()
            parts.append(message)
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                await self._refuse(send)
                return
            if message["type"] != "http.request" or not message.get("more_body", False):
                break

        async def again() -> MutableMapping[str, Any]:
            return parts.pop(0) if parts else await receive()

        await self._app(scope, again, send)

    @staticmethod
    async def _refuse(send: Send) -> None:
        body = Problem(detail=f"a request has at most {MOST_BYTES} bytes").model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
