"""A vLLM server as the engine: for real where vLLM is installed, and what is said when it is no such server."""

import json
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import chain
from threading import Thread

import pytest
import torch
from parity import gaps, is_greedy, moved, prompts, unsure

from superrl import models
from superrl.config import ModelConfig
from superrl.errors import RunError, UserError
from superrl.learner.copies import named_weights
from superrl.sampling.protocol import SamplingLimits
from superrl.sampling.vllm_server import Server, ServerSampler

LIMITS = SamplingLimits(24)
STARTS_WITHIN = 300


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answering(replies):
    """A server of the standard library that answers GET and POST by path: (status, JSON)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, value = replies.get(self.path.partition("?")[0], (404, {"detail": "Not Found"}))
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def told():
    """A server and what it says; a test changes that."""
    replies = {}
    server = answering(replies)
    yield replies, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def info(mode="processed_logprobs"):
    return 200, {"vllm_config": {"model_config": {"logprobs_mode": mode, "max_model_len": 77}}}


def test_nobody_there():
    with pytest.raises(
        UserError, match=r"sampler.url: nothing answers at http://127.0.0.1:\d+ .*superrl.sampling.serve"
    ):
        Server(f"http://127.0.0.1:{free_port()}").check()


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ((404, {}), "has no /server_info: start it with"),
        (info("raw_logprobs"), "reports raw_logprobs, not the probabilities that it draws by"),
        ((200, b"<html>"), "is no vLLM server, it says '<html>'"),
    ],
)
def test_a_server_that_will_not_do_is_refused_before_anything_runs(told, reply, complaint):
    replies, url = told
    replies["/server_info"] = reply
    with pytest.raises(UserError, match=complaint):
        Server(url).check()


def test_a_failure_in_the_run_is_no_recipe_s_fault(told, tmp_path):
    replies, url = told
    replies |= {"/server_info": info(), "/v1/models": (200, {"data": [{"id": "m"}]})}
    sampler = ServerSampler(f"{url}/v1/", models.load_tokenizer("tiny"), eos_ids=[1], dtype=torch.float32)
    assert sampler.max_length == 77
    weights = {"a": torch.zeros(2)}
    replies["/collective_rpc"] = (500, {"error": {"message": "no such weight"}})
    with pytest.raises(RunError, match=r"fails at /collective_rpc \(500: no such weight\)"):
        sampler.load(weights, 1)
    replies["/collective_rpc"] = (200, {"results": [None]})
    replies["/reset_prefix_cache"] = (200, {"success": False})
    with pytest.raises(RunError, match="did not empty its prefix cache"):
        sampler.load(weights, 1)
    replies["/reset_prefix_cache"] = (200, {"success": True})
    sampler.load(weights, 1)
    assert sampler.version == 1
    replies["/v1/completions"] = (400, {"error": {"message": "too long"}})
    with pytest.raises(RunError, match=r"refuses a request .*too long"):
        sampler.sample(prompts(models.load_tokenizer("tiny"))[:1], LIMITS)
    with pytest.raises(UserError, match=r"sampler.share: .*nowhere cannot be written"):
        ServerSampler(
            url, models.load_tokenizer("tiny"), eos_ids=[1], dtype=torch.float32, share=str(tmp_path / "nowhere")
        ).load(weights, 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`python -m superrl.sampling.serve tiny`, as a person would start it."""
    if find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    words = ["tiny", "--dtype", "float32", "--port", str(port), "--max-model-len", "96"]
    limits = ["--kv-cache-memory-bytes", str(1 << 28)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "superrl.sampling.serve", *words, *limits],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + STARTS_WITHIN
    try:
        while True:
            try:
                Server(url).check()
                break
            except UserError:
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(1.0)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def test_a_server_draws_what_the_weights_say_and_takes_new_ones(server, tmp_path):
    tokenizer, model = models.load_tokenizer("tiny"), unsure(models.load_model(ModelConfig(name="tiny")))
    sampler = ServerSampler(
        server, tokenizer, eos_ids=[tokenizer.eos_token_id], dtype=torch.float32, share=str(tmp_path)
    )
    assert sampler.max_length == 96
    for version in (1, 2):
        sampler.load(dict(named_weights(model)), version)
        assert not list(tmp_path.iterdir())
        counts = []
        drawn = list(chain.from_iterable(sampler.sample(prompts(tokenizer, 2, 0.8), LIMITS, counts.append)))
        assert float(gaps(model, drawn).max()) < 1e-4 and {t.version for t in drawn} == {version}
        assert sum(counts) == sum(t.length for t in drawn) and {t.stop for t in drawn} <= {"eos", "length"}
        greedy = list(chain.from_iterable(sampler.sample(prompts(tokenizer), LIMITS)))
        assert len(greedy) == 20 and all(is_greedy(model, t) for t in greedy)
        stopped = sampler.sample(prompts(tokenizer), SamplingLimits(24, stop=("=",)))
        ends = [t for t in chain.from_iterable(stopped) if t.stop == "stop"]
        assert (ends or version > 1) and all(t.text.endswith("=") and t.text.count("=") == 1 for t in ends)
        assert float(gaps(moved(model), drawn).mean()) > 1e-2
