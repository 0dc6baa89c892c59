"""``vllm serve`` as far as it is asked: it says what it has, gets healthy, and answers requests of token ids."""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BLOCKS = int(os.environ.get("FAKE_BLOCKS", "1000"))
BLOCK = 16


def option(name, default=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        engines = int(option("--data-parallel-size", "1"))
        labels = f'block_size="{BLOCK}",cache_dtype="auto",engine="{{}}",num_gpu_blocks="{BLOCKS * engines}"'
        rows = [f"vllm:cache_config_info{{{labels.format(number)}}} 1.0" for number in range(engines)]
        self.tell("\n".join(["# HELP", *rows]) if self.path == "/metrics" else "")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == sys.argv[2]
        assert all(isinstance(each, int) for each in asked["prompt"])
        self.tell(json.dumps({"usage": {"completion_tokens": asked["max_tokens"]}}))

    def tell(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


def main():
    assert sys.argv[1] == "serve"
    assert json.loads(Path(sys.argv[2], "config.json").read_text())["model_type"]
    assert "--skip-tokenizer-init" in sys.argv
    assert option("--load-format") == "dummy"
    if os.environ.get("FAKE_FAILS") == option("--max-num-seqs"):
        raise SystemExit("ValueError: No available memory for the cache blocks.")
    print(f"on GPUs {os.environ['CUDA_VISIBLE_DEVICES']}", flush=True)
    time.sleep(float(os.environ.get("FAKE_START_S", "0")))
    for number in range(int(option("--data-parallel-size", "1"))):
        print(f"(EngineCore_DP{number} pid=1) INFO GPU KV cache size: {BLOCKS * BLOCK:,} tokens", flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Answers).serve_forever()


if __name__ == "__main__":
    main()
