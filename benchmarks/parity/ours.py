"""Random inputs and what superrl's losses, advantages and estimators make of them, as one .npz that every peer reads.

    python benchmarks/parity/ours.py inputs.npz

Eight rollouts of two prompts, up to seven tokens, float64: log-probabilities now, before and of a reference, rewards,
critic's values. Keys `in/NAME` are inputs, [8] or [8, 7] with `in/mask`; `NAME` a result and `NAME@grad` its gradient
in the log-probabilities (in the values for the value loss). Leaves out masks and models: the peers' functions start
from log-probabilities, so ours do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from superrl import advantages, losses
from superrl.imitation import IMITATION
from superrl.methods.chord import ChordOptions, balance
from superrl.reduction import Reduction, denominator, weights

GROUPS, SIZE, LONGEST = 2, 4, 7
MU_STEPS = (0, 5, 10, 60, 110, 200)


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """The inputs; the ratios leave every clip on both sides."""
    rng = np.random.default_rng(seed)
    rows = GROUPS * SIZE
    lengths = rng.integers(2, LONGEST + 1, rows)
    mask = (np.arange(LONGEST)[None] < lengths[:, None]).astype(np.float64)
    old = rng.uniform(-2.5, -0.3, (rows, LONGEST))
    made = {
        "mask": mask,
        "old": old * mask,
        "logp": (old + rng.normal(0.0, 0.3, old.shape)).clip(max=-0.01) * mask,
        "ref": rng.uniform(-2.5, -0.3, old.shape) * mask,
        "reward": rng.uniform(0.0, 1.0, rows),
        "advantage": rng.normal(0.0, 1.0, rows),
        "value": rng.normal(0.0, 0.5, old.shape) * mask,
        "return": rng.normal(0.0, 0.5, old.shape) * mask,
    }
    made["value_now"] = (made["value"] + rng.normal(0.0, 0.3, old.shape)) * mask
    made["entropy"] = rng.uniform(0.1, 2.0, old.shape) * mask
    return made


def reduced(per_token: Tensor, lengths: Sequence[int], reduction: Reduction) -> Tensor:
    """The loss from flat token losses [N], by superrl's weights and denominator."""
    scale = weights(reduction, lengths, max_length=LONGEST)
    each = torch.tensor([w for w, n in zip(scale, lengths, strict=True) for _ in range(n)], dtype=torch.float64)
    return (per_token * each).sum() / denominator(reduction, lengths)


def results(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Everything that some peer has a function for."""
    where = torch.tensor(given["mask"]) > 0
    lengths = where.sum(1).tolist()
    flat = {name: torch.tensor(a)[where] for name, a in given.items() if a.ndim == 2}
    logp, value = flat["logp"].requires_grad_(True), flat["value_now"].requires_grad_(True)
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    a, ratio = torch.tensor(given["advantage"])[row], logp - flat["old"]
    mean = torch.zeros(len(lengths), dtype=torch.float64).index_add(0, row, ratio) / torch.tensor(lengths)
    clip = {"clip_low": 0.2, "clip_high": 0.28}
    clipped = losses.clipped_surrogate(ratio, a, **clip)
    k3 = losses.kl_estimate(flat["ref"], logp)
    sequence = losses.clipped_surrogate(mean[row], a, clip_low=0.03, clip_high=0.04)
    cispo = losses.clipped_weight(logp, flat["old"], a, clip_high=0.28)
    phi, nll = (reduced(IMITATION[name](logp, flat["old"]), lengths, "token") for name in ("phi", "nll"))
    grpo = reduced(losses.clipped_surrogate(ratio, a, clip_low=0.2, clip_high=0.2), lengths, "token")
    scalars = {
        "loss/clip, token mean": reduced(clipped, lengths, "token"),
        "loss/clip, sequence mean": reduced(clipped, lengths, "sequence"),
        "loss/clip, constant": reduced(clipped, lengths, "constant"),
        "loss/clip + 0.1 k3, sequence mean": reduced(clipped + 0.1 * k3, lengths, "sequence"),
        "loss/gspo": reduced(sequence, lengths, "sequence"),
        "loss/cispo, token mean": reduced(cispo, lengths, "token"),
        "loss/sft": nll,
        "loss/phi": phi,
        "loss/chord, mu 0.3": 0.7 * grpo + 0.3 * nll,
        "loss/chord-phi, mu 0.1": 0.9 * grpo + 0.1 * phi,
    }
    out = {}
    for name, loss in scalars.items():
        out |= both(name, loss, logp, where)
    for name, estimate in (
        ("kl/k1", logp - flat["ref"]),
        ("kl/k2", losses.kl_squared(logp, flat["ref"])),
        ("kl/k3", k3),
    ):
        out[name] = spread(estimate, where)
    plain = losses.clipped_value_loss(value, flat["value"], flat["return"], clip=0.2)
    out |= both("loss/value, clipped", reduced(plain, lengths, "token"), value, where)
    return out | credits(given, lengths) | {"mu": np.array([balance(MU, step) for step in MU_STEPS])}


MU = ChordOptions(peak=0.9, valley=0.05, warmup_steps=10, decay_steps=100)


def credits(given: dict[str, np.ndarray], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """Advantages, [8, 7]."""
    groups = given["reward"].reshape(GROUPS, SIZE).tolist()
    beta = 0.1
    to_go = [
        [float(r) - beta * float((now - ref)[t:n].sum()) for t in range(n)]
        for r, n, now, ref in zip(given["reward"], lengths, given["old"], given["ref"], strict=True)
    ]
    values = [row[:n].tolist() for row, n in zip(given["value"], lengths, strict=True)]
    paid = [[0.0] * (n - 1) + [float(r)] for r, n in zip(given["reward"], lengths, strict=True)]
    gae = [
        advantages.generalized_advantages(r, v, 0.0, gamma=0.99, lam=0.95) for r, v in zip(paid, values, strict=True)
    ]
    centred = [a for group in groups for a in advantages.center(group)]
    columns = [[a] * n for a, n in zip(centred, lengths, strict=True)]
    made = {
        "advantage/grpo": [[a] for group in groups for a in advantages.standardize(group, eps=1e-6)],
        "advantage/dr-grpo": [[a] for a in centred],
        "advantage/rloo": [[a] for group in groups for a in advantages.leave_one_out(group)],
        "advantage/reinforce++, KL in reward": advantages.whiten(to_go, eps=0.0),
        "advantage/reinforce++ baseline": advantages.whiten(columns, eps=0.0, shift=False),
        "advantage/gae": gae,
        "advantage/gae, whitened": advantages.whiten(gae, eps=0.0),
    }
    padded = {}
    for name, rows in made.items():
        table = np.zeros((len(lengths), LONGEST))
        for k, (column, n) in enumerate(zip(rows, lengths, strict=True)):
            table[k, :n] = column[0] if len(column) == 1 else column
        padded[name] = table
    return padded


def spread(values: Tensor, where: Tensor) -> np.ndarray:
    """Flat values in their places of a padded table."""
    table = torch.zeros(where.shape, dtype=torch.float64)
    table[where] = values.detach()
    return table.numpy()


def both(name: str, loss: Tensor, leaf: Tensor, where: Tensor) -> dict[str, np.ndarray]:
    """A loss and its gradient."""
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    return {name: loss.detach().numpy(), f"{name}@grad": spread(gradient, where)}


if __name__ == "__main__":
    given = inputs()
    np.savez(sys.argv[1], **{f"in/{name}": array for name, array in given.items()}, **results(given))
