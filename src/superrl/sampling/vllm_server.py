"""A vLLM server, in another process or on another machine, as the engine: asked over HTTP, by token ids.

After a step the learner's weights are written into a folder that the server can read too (`share`) and the server is
told to load them from there; then its prefix cache is emptied. Both go through vLLM's development end points, and with
them anybody who reaches the server can replace its weights: bind it to this machine or a private network. How to start
one: `python -m superrl.sampling.serve`.

Leaves out weights sent from device to device (NCCL): a server on GPUs reads them from the shared folder, too.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import Request

import torch
from torch import Tensor

from superrl.endpoint import Client, Refused, endpoint
from superrl.endpoint.transport import opener, reason, send, wait
from superrl.errors import RunError, UserError, one_line
from superrl.records import Trajectory
from superrl.sampling.asked import Answer, asked, trajectories
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.sampling.shell import write_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONCURRENCY = 256
"""Requests under way at once; the server batches them."""
PATIENCE = 1800.0
"""Seconds that a reply may take: a completion's, or that to a push of weights."""
HOW = "start it with: python -m superrl.sampling.serve MODEL"


class ServerSampler:
    """A vLLM server that nobody else uses: its weights are this run's."""

    def __init__(
        self,
        url: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: Sequence[int],
        dtype: torch.dtype,
        share: str | None = None,
        max_length: int | None = None,
    ) -> None:
        self.version = 0
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_ids)
        self._dtype = dtype
        self._share = share
        self._server = Server(url)
        told = self._server.check()
        self.max_length = told if max_length is None else min(told, max_length)
        self._client = Client(
            endpoint(f"{self._server.root}/v1", self._server.model(), concurrency=CONCURRENCY, timeout=PATIENCE)
        )

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Take over the learner's weights, cast, through a folder; what was computed with the old ones is forgotten."""
        try:
            folder = Path(tempfile.mkdtemp(prefix="superrl-weights-", dir=self._share))
        except OSError as error:
            raise UserError(f"sampler.share: {self._share} cannot be written ({error.strerror}): mend it") from None
        try:
            folder.chmod(0o755)  # the server may be another user
            write_weights(folder, weights, self._dtype)
            self._server.reload(folder)
        except OSError as error:
            raise RunError(f"the weights for vLLM cannot be written to {folder} ({error.strerror}): mend it") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.version = version

    def sample(
        self, prompts: Sequence[Prompt], limits: SamplingLimits, on_tokens: Callable[[int], None] | None = None
    ) -> list[list[Trajectory]]:
        """One list of `n` trajectories a prompt, in the order given. `on_tokens(k)` hears that k tokens were drawn."""
        wanted = asked(prompts, limits, self.max_length)
        bodies = [
            self._client.endpoint.request(
                prompt=list(one.prompt.tokens),
                return_token_ids=True,
                **one.fields(limits, self._eos),
            )
            for one in wanted
        ]

        def read(value: Any) -> Answer:
            answer = read_answer(value)
            if on_tokens is not None:
                on_tokens(len(answer.tokens))
            return answer

        try:
            answers = wait(self._client.ask("completions", bodies, read))
        except UserError as error:  # the server has answered before: no recipe's fault
            raise RunError(f"vLLM at {self._server.root}: {error}") from error
        if refused := next((answer for answer in answers if isinstance(answer, Refused)), None):
            raise RunError(f"vLLM at {self._server.root} refuses a request ({refused.why}): look at its log")
        return trajectories(prompts, answers, self._tokenizer, self.version, self._eos)

    def sleep(self) -> None:
        """The server has a machine of its own."""

    def close(self) -> None:
        """The server goes on; it is not ours."""


def read_answer(value: Any) -> Answer:
    """The answer in a reply to `/v1/completions`."""
    choice = value["choices"][0]
    logp = [float(number) for number in choice["logprobs"]["token_logprobs"]]
    tokens = [int(token) for token in choice["token_ids"]]
    return Answer(tokens, logp, choice["finish_reason"], choice.get("stop_reason"))


class Server:
    """The development end points of a vLLM server: what it is, new weights, an empty cache."""

    def __init__(self, url: str) -> None:
        base = endpoint(url, "").url.removesuffix("/v1")
        self.root = base.rstrip("/")
        self._known = False
        self._opener = opener(base)

    def check(self) -> int:
        """The longest sequence that it serves; refuses a server that would sample something else than the recipe says
        or cannot take weights."""
        told = self._ask("server_info?" + urlencode({"config_format": "json"}))["vllm_config"]
        model = told["model_config"]
        if model["logprobs_mode"] != "processed_logprobs":
            raise UserError(
                f"sampler.url: the server at {self.root} reports {model['logprobs_mode']}, not the probabilities that "
                f"it draws by; start it with --logprobs-mode processed_logprobs, or {HOW}"
            )
        self._known = True
        return int(model["max_model_len"])

    def model(self) -> str:
        """The name that it serves its model under."""
        return str(self._ask("v1/models")["data"][0]["id"])

    def reload(self, folder: Path) -> None:
        """Weights from a folder that both see, then no cache of old ones."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self._ask("collective_rpc", body)
        if not self._ask("reset_prefix_cache", {})["success"]:
            raise RunError(f"vLLM at {self.root} did not empty its prefix cache: is anybody else using it?")

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A GET, or a POST of a body; the JSON that comes back."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.root}/{path}", data, {"Content-Type": "application/json", "User-Agent": "superrl"})
        sent = send(self._opener, request, PATIENCE)
        what = path.partition("?")[0]
        if sent.status == 0 and self._known:
            raise RunError(
                f"vLLM at {self.root} does not answer any more ({sent.text}): look at its log, then --resume"
            )
        if sent.status == 0:
            raise UserError(f"sampler.url: nothing answers at {self.root} ({sent.text}): {HOW}")
        if sent.status in (404, 405):
            raise UserError(f"sampler.url: the server at {self.root} has no /{what}: {HOW}")
        if sent.status != 200:
            raise RunError(f"vLLM at {self.root} fails at /{what} ({sent.status}: {reason(sent.text)}): see its log")
        try:
            return json.loads(sent.text)
        except ValueError:
            raise UserError(
                f"sampler.url: {self.root} is no vLLM server, it says {one_line(sent.text, 80)!r}"
            ) from None
