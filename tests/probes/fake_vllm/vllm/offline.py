"""``vllm.LLM``."""

import time
from types import SimpleNamespace

from vllm import made_up
from vllm.engine.arg_utils import AsyncEngineArgs


class LLM:
    def __init__(self, **arguments):
        self._extension = arguments["worker_extension_cls"]
        config = AsyncEngineArgs(**arguments).config()
        made_up.start(config)
        self.llm_engine = SimpleNamespace(vllm_config=config)

    def collective_rpc(self, method):
        return made_up.reports(method, self._extension)

    def generate(self, prompts, sampling, *, use_tqdm):
        assert sampling.ignore_eos
        assert not sampling.detokenize, "there is no tokenizer"
        assert not use_tqdm
        made_up.go_wrong(self.llm_engine.vllm_config, len(prompts))
        prefill = made_up.step_s(len(prompts), sum(len(each["prompt_token_ids"]) for each in prompts))
        time.sleep(prefill + made_up.step_s(len(prompts)) * (sampling.max_tokens - 1))
        answer = SimpleNamespace(token_ids=[5] * sampling.max_tokens)
        metrics = SimpleNamespace(first_token_latency=prefill)
        return [SimpleNamespace(outputs=[answer], metrics=metrics) for _ in prompts]
