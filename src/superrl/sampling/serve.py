"""`python -m superrl.sampling.serve MODEL [--dtype D] [further arguments of vllm serve]`: a vLLM server to train with.

Writes the model into a folder as `shell.py` says, then runs vLLM's server with what training needs: probabilities of
the distribution that is drawn from, prefix caching, the development end points that take weights. Everything else
(`--port`, `--tensor-parallel-size`, ...) is vLLM's own and passed on. Leaves out everything about the training.

MODEL may stand anywhere: it is the first word that follows no option, else the last word of all.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from superrl import models
from superrl.config import ModelConfig
from superrl.errors import UserError
from superrl.learner.copies import named_weights
from superrl.sampling.shell import write_shell, write_weights
from superrl.sampling.vllm import CPU_BLOCK, require_vllm

SERVER = "vllm.entrypoints.openai.api_server"
"""Where vLLM's server begins; its command line `vllm serve` is missing in its CPU build."""
ON_CPU = ("--enforce-eager", "--block-size", str(CPU_BLOCK), "--kv-cache-memory-bytes", str(4 * 2**30))
"""On a CPU vLLM would take nine tenths of the memory, and share only long prefixes."""


def prepare(model: str, dtype: str, folder: Path) -> None:
    """The whole model in a folder, untied, in its compute type."""
    config = ModelConfig(name=model, device="cpu")
    loaded = models.load_model(config)
    write_shell(folder, loaded, models.load_tokenizer(model))
    write_weights(folder, dict(named_weights(loaded)), getattr(torch, dtype))


def split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """MODEL and the rest, in order, of words among which stand options that only vLLM knows; None: there is no MODEL.

    >>> split(["--port", "8000", "tiny"])
    ('tiny', ['--port', '8000'])
    """

    def option(word: str) -> bool:
        return word.startswith("-") and "=" not in word

    free = [i for i, word in enumerate(words) if not word.startswith("-") and not (i and option(words[i - 1]))]
    last = [len(words) - 1] if len(words) > 1 and not words[-1].startswith("-") else []
    if not (found := free or last):
        return None, list(words)
    at = found[0]
    return words[at], [*words[:at], *words[at + 1 :]]


def command(model: str, dtype: str, folder: Path, further: Sequence[str]) -> list[str]:
    """The server's command for a model written there; `further` arguments come last, so that they win."""
    return [
        *(sys.executable, "-m", SERVER, "--model", str(folder)),
        *("--served-model-name", model, "--dtype", dtype, "--generation-config", "vllm"),
        *("--logprobs-mode", "processed_logprobs", "--enable-prefix-caching", "--host", "127.0.0.1"),
        *(() if torch.cuda.is_available() else ON_CPU),
        *further,
    ]


def run(words: Sequence[str]) -> int:
    """Run the server until it ends; a signal to end is passed on. Its exit status, 128 + signal where one killed it."""
    process = subprocess.Popen(words, env={"VLLM_NO_USAGE_STATS": "1", **os.environ, "VLLM_SERVER_DEV_MODE": "1"})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    code = process.wait()
    return code if code >= 0 else 128 - code


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, write, serve; 2 with a sentence for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m superrl.sampling.serve",
        usage="%(prog)s MODEL [--dtype {float32,bfloat16}] [any argument of vllm serve]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="MODEL: as model.name of a recipe",
        allow_abbrev=False,
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    own, words = parser.parse_known_args(arguments)
    model, further = split(words)
    if model is None:
        parser.error("MODEL is missing, the name or folder that model.name of the recipe says")
    try:
        require_vllm()
        with tempfile.TemporaryDirectory(prefix="superrl-serve-") as name:
            prepare(model, own.dtype, Path(name))
            return run(command(model, own.dtype, Path(name), further))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
