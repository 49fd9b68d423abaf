"""The local model's own process: loads weights with llama.cpp and serves them on loopback; refuses to know Tokenrelay.

    worker ──stdin──▶ one line: what to load            worker ◀──stdout── one line: where it listens
    worker keeps stdin open: its end, however it comes, is the end of this process

A process of its own, because a fault in native code must not take a worker's other generations along, because its
threads are to yield to the event loop, and because killing it is the one way to be sure that it is gone. It runs by its
path, imports nothing of the project, and is started by `local`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from typing import Any, Final

ERRORS_ONLY: Final = 1  # llama.cpp, common/log.h: LOG_LEVEL_ERROR
NICENESS: Final = 5
MAX_DESCRIPTORS: Final = 65_536


def main() -> None:
    # uvloop leaves copies of our pipes open in its children: with those the parent would never see an end.
    os.closerange(3, MAX_DESCRIPTORS)
    # Ctrl-C and a service manager's SIGTERM reach the whole group, but the worker may still be finishing answers:
    # it decides when this ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    # llama.cpp may print; stdout is for the one line.
    out = os.dup(1)
    os.dup2(2, 1)
    spec = json.loads(_read_line(0))
    watcher = threading.Thread(target=_die_with_parent, daemon=True)
    watcher.start()
    server = load(spec)
    os.write(out, json.dumps({"address": server.listening_address}).encode() + b"\n")
    _hush(out)
    watcher.join()


def load(spec: dict[str, Any]) -> Any:
    """A server that listens and is ready. Raises RuntimeError when llama.cpp cannot load the weights."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec["weights"]
    params.model_alias = {spec["model"]}  # else every chunk names the path of the weights
    params.api_keys = [spec["api_key"]]  # loopback is open to everybody on this machine
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = spec["parallel"]
    params.n_ctx = spec["parallel"] * spec["context"]  # shared out evenly
    params.n_gpu_layers = 0
    params.fit_params = False
    params.cache_ram_mib = 0  # else up to 8 GiB of old prompts are kept
    params.ui = False
    params.verbosity = ERRORS_ONLY
    # One token is little work for many threads, and while they wait for each other they starve the worker's event loop
    # (measured on two cores with one of them taken: 84 tokens/s with one thread, 35 with two). A prompt is much work.
    params.cpuparams.n_threads = max(1, spec["cpus"] - 1)
    params.cpuparams_batch.n_threads = spec["cpus"]
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    # Between two batches it looks who has left, and the others get their tokens: after half a second of a prompt, not
    # all of it (1,200 tokens in one batch held both up for ten seconds; batches of 64 take a quarter longer in all).
    params.n_batch = params.n_ubatch = 64
    # What the authors of SmolLM2 advise, for requests that say nothing: it wanders off at llama.cpp's 0.8.
    params.sampling.temp, params.sampling.top_p = 0.2, 0.9
    return xllamacpp.Server(params)


def _read_line(descriptor: int) -> bytes:
    """Up to the line's end or the end of all; byte by byte, for nothing after it may be taken."""
    line = b""
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _die_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os._exit(0)  # no clean-up: native threads may be in mid-token, and nothing here outlives the process


def _hush(out: int) -> None:
    """From now on nothing is printed: an error of llama.cpp's may quote a prompt. The parent sees both pipes end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    os.close(out)


if __name__ == "__main__":
    main()
