"""TRL's GRPO loss on our inputs. Run in an environment of TRL's own:

    python benchmarks/parity/with_trl.py inputs.npz

TRL has no loss function apart from its trainer, so `GRPOTrainer._compute_loss` is called without one: on an object with
just the settings it reads, whose "model" returns the given log-probabilities.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from report import Theirs, load, table
from trl import GRPOTrainer

CASES = {
    "loss/clip, token mean": {"loss_type": "dapo"},
    "loss/clip, sequence mean": {"loss_type": "grpo"},
    "loss/clip, constant": {"loss_type": "dr_grpo"},
    "loss/clip + 0.1 k3, sequence mean": {"loss_type": "grpo", "beta": 0.1},
    "loss/gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": (0.03, 0.04)},
    "loss/cispo, token mean": {"loss_type": "cispo", "epsilon": (0.2, 1.28)},
    "loss/cispo, token mean [epsilon_high 0.28]": {"loss_type": "cispo", "epsilon": (0.2, 0.28)},
}


def trainer(logp: torch.Tensor, entropy: torch.Tensor, case: dict[str, Any]) -> SimpleNamespace:
    """All that the loss reads of a trainer."""
    low, high = case.get("epsilon", (0.2, 0.28))
    accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1)
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, entropy, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=case.get("importance_sampling_level", "token"),
        beta=case.get("beta", 0.0),
        args=args,
        loss_type=case["loss_type"],
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=logp.shape[1],
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )


def theirs(given: dict[str, torch.Tensor]) -> Theirs:
    """TRL's results by the names of ours."""
    out = {}
    ids, mask = torch.zeros(given["mask"].shape, dtype=torch.long), given["mask"].long()
    for name, case in CASES.items():
        logp = given["logp"].clone().requires_grad_(True)
        batch = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": mask[:, :1],
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": given["advantage"],
            "old_per_token_logps": given["old"],
            "ref_per_token_logps": given["ref"],
            "num_items_in_batch": mask.sum(),
        }
        loss = GRPOTrainer._compute_loss(trainer(logp, given["entropy"], case), None, batch)
        out[name] = (loss.detach(), torch.autograd.grad(loss, logp)[0])
    return out


if __name__ == "__main__":
    arrays, ours = load(sys.argv[1])
    found = theirs({name: torch.tensor(array) for name, array in arrays.items()})
    print(table(ours, found, lambda name: f"loss_type={CASES[name]['loss_type']}"))
