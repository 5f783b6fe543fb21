"""Measure what the options of the aesthetic term cost: views, the worst place nearby, the hinge.

    python benchmarks/aesthetic_term.py [--short] [--output FILE.md]

One step of the term: the loss of patches of 192 pixels by the bundled scorer, and its gradient to
the pixels. CPU time on one thread. The settings take turns; median of the rounds, with the lowest
and the highest.
"""

import statistics
import time
from typing import Any

import torch
from report import Row, command_line, hand_over, heading, publish, spread

from lightning_modules.loss_terms import AestheticLoss
from lightning_modules.scorer_views import VIEWS
from system.device import keep_memory
from system.places import ROOT

SCORER = ROOT / "weights" / "nima_ava_distilled.safetensors"
ROUNDS, PATCH = 7, 192
HINGE: dict[str, Any] = {"mode": "hinge"}
RHO: dict[str, Any] = {"rho": 0.5}
ALL: dict[str, Any] = {"views": list(VIEWS)}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{f"views=[{name}] num_views=4": {"views": [name]} for name in VIEWS},
    "all views, num_views=4": ALL,
    "rho=0.5": RHO,
    "all views, num_views=4 rho=0.5": ALL | RHO,
    "mode=hinge": HINGE,
    "mode=hinge target=7": HINGE | {"target": 7.0},
    "mode=hinge, all views, num_views=4 rho=0.5": HINGE | ALL | RHO,
}


def step_seconds(loss: AestheticLoss, sr_BCHW: torch.Tensor, hr_BCHW: torch.Tensor) -> float:
    """Measure the CPU time of one step."""
    start = time.process_time()
    torch.autograd.grad(loss(sr_BCHW, hr_BCHW), sr_BCHW)
    return time.process_time() - start


def main() -> None:
    """Measure and write the table."""
    options = command_line(__doc__).parse_args()
    rounds, num_patches = (2, 1) if options.short else (ROUNDS, 4)
    keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hr_BCHW = torch.rand(num_patches, 3, PATCH, PATCH)
    sr_BCHW = (0.9 * hr_BCHW).requires_grad_()
    losses = {name: AestheticLoss(SCORER, **setting) for name, setting in SETTINGS.items()}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(rounds + 1):
        for name, loss in losses.items():
            seconds = step_seconds(loss, sr_BCHW, hr_BCHW)
            if turn:  # the first one warms up
                times[name].append(1e3 * seconds)
    plain = statistics.median(times["plain"])
    remark = f"{num_patches} patches, {rounds} rounds: median (lowest-highest)"
    lines = heading("Options of the aesthetic term", remark)
    lines += ["| loss.aesthetic | CPU time a step, ms | times plain |", "|---|---:|---:|"]
    for name, values in times.items():
        ratio = statistics.median(values) / plain
        lines.append(f"| {name} | {spread(values, 0)} | {ratio:.1f} |")
    publish(lines, options.output)
    rows = [
        Row(f"aesthetic term, {name} (reference: plain), ms", statistics.median(times[name]), plain)
        for name in ("all views, num_views=4", "rho=0.5", "all views, num_views=4 rho=0.5")
    ]
    hand_over(rows, options.json)


if __name__ == "__main__":
    main()
