"""Trinity-RFT's CHORD loss on our inputs. Run in an environment of its own:

python benchmarks/parity/with_trinity.py inputs.npz
"""

from __future__ import annotations

import sys

import torch
from report import Theirs, load, table
from trinity.algorithm.policy_loss_fn.chord_policy_loss import MIXCHORDPolicyLossFn, mu_schedule_function

MU_STEPS = (0, 5, 10, 60, 110, 200)
CASES = {"loss/chord, mu 0.3": (0.3, False), "loss/chord-phi, mu 0.1": (0.1, True)}


def theirs(given: dict[str, torch.Tensor]) -> Theirs:
    """Trinity's results by the names of ours. The same eight rows stand once as rollouts and once as demonstrations."""
    out = {}
    n = len(given["mask"])
    expert = torch.tensor([False] * n + [True] * n)
    twice = {name: torch.cat([a, a]) for name, a in given.items()}
    for name, (mu, phi) in CASES.items():
        loss_of = MIXCHORDPolicyLossFn(
            mu_peak=mu,
            mu_valley=mu,
            enable_phi_function=phi,
            clip_range=0.2,
            ppo_mini_batch_size=2 * n,
            ppo_micro_batch_size_per_gpu=2 * n,
            train_batch_size_usual=n,
            train_batch_size_expert=n,
        )
        logp = given["logp"].clone().requires_grad_(True)
        loss, _ = loss_of(
            logprob=torch.cat([logp, logp]),
            old_logprob=twice["old"],
            action_mask=twice["mask"],
            advantages=(twice["advantage"][:, None] * twice["mask"]),
            expert_mask=expert,
            step=torch.zeros(2 * n),
        )
        out[name] = (loss.detach(), torch.autograd.grad(loss, logp)[0])
    schedule = [mu_schedule_function(step, 10, 100, 0.9, 0.05) for step in MU_STEPS]
    return {**out, "mu": (schedule, None)}


if __name__ == "__main__":
    arrays, ours = load(sys.argv[1])
    found = theirs({name: torch.tensor(array) for name, array in arrays.items()})
    names = {"mu": "mu_schedule_function"}
    print(table(ours, found, lambda name: names.get(name, "MIXCHORDPolicyLossFn")))
