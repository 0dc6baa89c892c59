"""``vllm.engine.arg_utils``: arguments by their names, others are refused as a dataclass refuses them."""

import json
from pathlib import Path
from types import SimpleNamespace

RECORDED = Path(__file__).parents[4] / "catalog" / "engine_options" / "vllm-0.33.0.json"


class AsyncEngineArgs:
    def __init__(self, **arguments):
        options = json.loads(RECORDED.read_text())["options"]
        known = {option.removeprefix("--").replace("-", "_") for option in options} | {"model", "disable_log_stats"}
        for name in arguments:
            if name not in known:
                raise TypeError(f"AsyncEngineArgs.__init__() got an unexpected keyword argument {name!r}")
        self.arguments = arguments

    def config(self):
        """What of ``VllmConfig`` is asked for."""
        folder = Path(self.arguments["model"])
        positions = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
        given = self.arguments
        return SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=given.get("max_model_len", positions)),
            scheduler_config=SimpleNamespace(
                async_scheduling=True,
                max_num_seqs=given.get("max_num_seqs", 1024),
                max_num_batched_tokens=given.get("max_num_batched_tokens", 8192),
            ),
            use_v2_model_runner=True,
        )
