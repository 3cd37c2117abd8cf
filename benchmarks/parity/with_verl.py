"""verl's `core_algos` on our inputs. Run in an environment of verl's own:

python benchmarks/parity/with_verl.py inputs.npz
"""

from __future__ import annotations

import sys

import torch
from report import Theirs, load, table
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos as verl
from verl.workers.config import ActorConfig

FUNCTIONS: dict[str, str] = {}


def theirs(given: dict[str, torch.Tensor]) -> Theirs:
    """verl's results by the names of ours."""
    mask, index, out = given["mask"], [0] * 4 + [1] * 4, {}
    last = torch.zeros_like(mask)
    ends = (mask.sum(1) - 1).long()
    last[torch.arange(len(ends)), ends] = given["reward"]
    with_kl = last - 0.1 * (given["old"] - given["ref"]) * mask
    algo = AlgoConfig(gamma=1.0)

    def note(name: str, function: object, value: object, gradient: object = None) -> None:
        FUNCTIONS[name] = function.__name__  # type: ignore[attr-defined]
        out[name] = (value, gradient)

    f = verl.compute_grpo_outcome_advantage
    note("advantage/grpo", f, f(last.clone(), mask, index)[0])
    note("advantage/dr-grpo", f, f(last.clone(), mask, index, norm_adv_by_std_in_grpo=False)[0])
    f = verl.compute_rloo_outcome_advantage
    note("advantage/rloo", f, f(last.clone(), mask, index)[0])
    f = verl.compute_reinforce_plus_plus_outcome_advantage
    note("advantage/reinforce++, KL in reward", f, f(with_kl, mask, config=algo)[0])
    f = verl.compute_reinforce_plus_plus_baseline_outcome_advantage
    white = f(last.clone(), mask, index)[0]
    note("advantage/reinforce++ baseline", f, white)
    tokens = centred(given).expand_as(mask)[mask > 0]
    note("advantage/reinforce++ baseline [their shift taken back]", f, (white + tokens.mean() / tokens.std()) * mask)
    f = verl.compute_gae_advantage_return
    advantage, returns = f(last, given["value"], mask, 0.99, 0.95)
    note("advantage/gae", f, (returns - given["value"]) * mask)
    note("advantage/gae, whitened", f, advantage * mask)

    for name, kind, mode, low, high in (
        ("loss/clip, token mean", "vanilla", "token-mean", 0.2, 0.28),
        ("loss/clip, sequence mean", "vanilla", "seq-mean-token-mean", 0.2, 0.28),
        ("loss/clip, constant", "vanilla", "seq-mean-token-sum-norm", 0.2, 0.28),
        ("loss/gspo", "gspo", "seq-mean-token-mean", 0.03, 0.04),
        ("loss/cispo, token mean [default lower clip]", "cispo", "token-mean", 0.2, 0.28),
        ("loss/cispo, token mean", "cispo", "token-mean", 1.0, 0.28),
    ):
        config = ActorConfig(
            strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_low=low, clip_ratio_high=high
        )
        f = verl.get_policy_loss_fn(kind)
        logp = given["logp"].clone().requires_grad_(True)
        loss, _ = f(given["old"], logp, given["advantage"][:, None] * mask, mask, mode, config)
        note(name, f, loss.detach(), torch.autograd.grad(loss, logp)[0])
    f = verl.kl_penalty
    for name in ("k1", "k2", "k3"):
        note(f"kl/{name}", f, f(given["logp"], given["ref"], name) * mask)
    f = verl.compute_value_loss
    now = given["value_now"].clone().requires_grad_(True)
    loss, _ = f(now, given["return"], given["value"], mask, 0.2)
    note("loss/value, clipped", f, loss.detach(), torch.autograd.grad(loss, now)[0])
    return out


def centred(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Rewards less their group's mean, [8, 1]."""
    groups = given["reward"].reshape(2, 4)
    return (groups - groups.mean(1, keepdim=True)).reshape(-1, 1)


if __name__ == "__main__":
    arrays, ours = load(sys.argv[1])
    found = theirs({name: torch.tensor(array) for name, array in arrays.items()})
    print(table(ours, found, FUNCTIONS.__getitem__))
