"""Draws docs/methods/imitation.{png,svg}: how hard each supervised loss pulls at a token of probability p.

Every loss of `superrl.imitation` has a gradient c(p) grad log p; c is taken by autograd from the losses as they train,
not from a formula. RL-PLUS is at p_old = p, LUFFY and RL-PLUS at advantage 1. Needs matplotlib (the extra `compare`):

    python examples/imitation_figure.py docs/methods
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from superrl.imitation import coefficient

LOSSES = {
    "nll": ("SFT", "#222222", 5.6),
    "trsft": ("TrSFT", "#D55E00", 3.6),
    "dft": ("DFT", "#009E73", 3.6),
    "rl-plus": ("RL-PLUS", "#CC79A7", 1.8),
    "luffy": ("LUFFY", "#0072B2", 1.6),
    "phi": ("CHORD-φ", "#E69F00", 1.6),
}
"""Name, colour (Okabe and Ito) and width by loss: where two coincide, the lower one is the wider."""
ALONG = 38.0
"""The angle of c = p on the logarithmic axes, in degrees: names stand along the curves there."""
PLACES = {
    "log": {
        "nll": (1.3e-4, 1.22, 0.0), "trsft": (6e-3, 7.6e-2, ALONG), "luffy": (2e-4, 2.5e-3, ALONG),
        "rl-plus": (6e-4, 1.3e-3, ALONG), "dft": (3e-3, 3.7e-3, ALONG), "phi": (1e-3, 5.5e-4, ALONG),
    },
    "linear": {
        "nll": (0.50, 1.035, 0.0), "trsft": (0.14, 0.93, 0.0), "dft": (0.66, 0.77, 0.0),
        "rl-plus": (0.21, 0.595, 0.0), "phi": (0.655, 0.255, 0.0), "luffy": (0.46, 0.085, 0.0),
    },
}  # fmt: skip
"""Where a curve's name stands in each panel, and its angle."""
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.hashsalt": "superrl",
    "svg.fonttype": "path",
}


def draw() -> Any:
    """The figure: lost tokens on logarithmic axes, all of them on linear ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    lost, whole = figure.subplots(1, 2)
    for axes, p in ((lost, torch.logspace(-4, 0, 200)), (whole, torch.linspace(0, 1, 201))):
        p = p.double().clamp(1e-6, 1 - 1e-9)
        for name, (_, colour, width) in LOSSES.items():
            axes.plot(p, coefficient(name, p), color=colour, linewidth=width)
        axes.set_xlabel("probability p of the expert's token now")
    lost.set(xscale="log", yscale="log", xlim=(1e-4, 1), ylim=(5e-5, 2), title="tokens the policy has all but lost")
    whole.set(xlim=(0, 1), ylim=(0, 1.1), title="all tokens")
    lost.set_ylabel("coefficient c(p) on ∇ log p")
    for axes, panel in ((lost, "log"), (whole, "linear")):
        for name, (x, y, angle) in PLACES[panel].items():
            label, colour, _ = LOSSES[name]
            axes.text(x, y, label, color=colour, fontweight="bold", rotation=angle, rotation_mode="anchor")
    return figure


def main(folder: Path) -> None:
    """Both files."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        figure = draw()
        FigureCanvasAgg(figure)
        figure.savefig(folder / "imitation.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / "imitation.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
