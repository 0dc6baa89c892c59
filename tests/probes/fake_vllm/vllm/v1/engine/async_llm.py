"""``vllm.v1.engine.async_llm``."""

import asyncio
from types import SimpleNamespace

from vllm import made_up
from vllm.sampling_params import RequestOutputKind


class AsyncLLM:
    def __init__(self, arguments):
        self.vllm_config = arguments.config()
        self._extension = arguments.arguments["worker_extension_cls"]
        self._running = 0
        made_up.start(self.vllm_config)

    @classmethod
    def from_engine_args(cls, arguments):
        return cls(arguments)

    async def collective_rpc(self, method):
        return made_up.reports(method, self._extension)

    async def generate(self, prompt, sampling, request_id):
        assert isinstance(request_id, str)
        assert not sampling.detokenize, "there is no tokenizer"
        assert sampling.output_kind == RequestOutputKind.DELTA
        self._running += 1
        try:
            made_up.go_wrong(self.vllm_config, self._running)
            await asyncio.sleep(made_up.step_s(self._running, len(prompt["prompt_token_ids"])))
            for number in range(sampling.max_tokens):
                if number:
                    await asyncio.sleep(made_up.step_s(self._running))
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5])])
        finally:
            self._running -= 1
