"""Run a command that ends when whoever started it does, however that ends.

    python -P probes/supervised.py COMMAND ARGUMENT...

To be started in a session of its own, with a pipe as standard input that the starter keeps open: when it is closed, be it
by the kernel because the starter was killed, everything in the session is killed. The exit code is the command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def end_with_starter() -> None:
    """Wait until nobody can write to standard input any more: who started us is gone, and who else would end us?"""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(argv: list[str]) -> int:
    threading.Thread(target=end_with_starter, daemon=True).start()
    code = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
