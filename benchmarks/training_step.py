"""Measures a training step of EDSR baseline x2: ours, and the official code's.

    python benchmarks/training_step.py [--short] [--steps 20] [--output FILE.md]

The official code trains in float32, in PyTorch's default memory format, with L1 and Adam; its loop
is written down here. Ways are measured step by step in turns, each in a process of its own. Also:
what the aesthetic term adds, in the same precision, with the scorer run in every step. The short
way compares our bfloat16 with the official loop alone.
"""

import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from report import Row, command_line, hand_over, heading, publish, spread

BATCH = 16
WARM_UP = 3
# LR side, precision, gamma; "plain" is the official loop, "kept" the same, with memory kept.
WAYS: dict[str, tuple[int, str, float | str]] = {
    "official loop, float32": (48, "float32", "plain"),
    "official loop, float32, memory kept": (48, "float32", "kept"),
    "official loop, bfloat16": (48, "bfloat16", "plain"),
    "ours, float32": (48, "float32", 0),
    "ours, bfloat16": (48, "bfloat16", 0),
    "96 -> 192, gamma 0": (96, "bfloat16", 0),
    "96 -> 192, gamma 0.4": (96, "bfloat16", 0.4),
    "24 -> 48, gamma 0": (24, "bfloat16", 0),
    "24 -> 48, gamma 0.4": (24, "bfloat16", 0.4),
}
SPEED = list(WAYS)[:5]
OFFICIAL, OURS = SPEED[0], SPEED[4]
COST = [("96 -> 192", *list(WAYS)[5:7]), ("24 -> 48, enlarged to 192", *list(WAYS)[7:9])]


def serve(side: int, precision: str, gamma: float | str) -> None:
    """Prints the error of the output; then takes a step for each line and prints its seconds."""
    import torch

    from lightning_modules.enhancement import EnhancementModule
    from lightning_modules.losses import HybridLoss
    from lightning_modules.schedules import Constant
    from networks.edsr import EDSR
    from networks.nima import NIMA
    from system.device import keep_memory

    if gamma != "plain":
        keep_memory()  # as the train command does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = EDSR(2)
    lr = torch.rand(BATCH, 3, side, side, device=device)
    hr = torch.rand(BATCH, 3, 2 * side, 2 * side, device=device)
    module: Any = None
    if isinstance(gamma, str):
        net = net.to(device)
    else:
        loss = HybridLoss(gamma, NIMA("mnasnet_1_0"))
        module = EnhancementModule(net, loss, torch.optim.Adam, Constant()).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def autocast() -> Any:  # noqa: ANN401
        mixed = precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()

    def forward() -> Any:  # noqa: ANN401
        return net(lr) if module is None else module(lr, 2)

    def step() -> None:
        optimizer.zero_grad()
        with autocast():
            sr = forward()
            if module is None:
                total = 255 * torch.nn.functional.l1_loss(sr, hr)
            else:
                total = module.loss(sr, hr).total
        torch.autograd.backward(total)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        exact = forward()
        with autocast():
            error = (forward() - exact).abs().max().item() * 255
    print(json.dumps(error), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(json.dumps(time.perf_counter() - start), flush=True)


class Worker:
    """A process that takes steps."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--serve", name]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.error = self.answer()

    def answer(self) -> float:
        """The next number that it prints."""
        assert self.process.stdout is not None
        return float(json.loads(self.process.stdout.readline()))

    def step(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def in_turns(names: list[str], steps: int) -> dict[str, tuple[float, list[float]]]:
    """Error of the output in grey levels, and seconds of each step, for each way."""
    workers = {name: Worker(name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for k in range(WARM_UP + steps):
        for name, worker in workers.items():
            taken = worker.step()
            if k >= WARM_UP:
                seconds[name].append(taken)
    for worker in workers.values():
        worker.end()
    return {name: (workers[name].error, seconds[name]) for name in names}


def main() -> None:
    """Measures and prints the report."""
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    steps = 3 if options.short else options.steps
    lines = [
        *heading(
            "Training step of EDSR baseline x2",
            f"{BATCH} patches; medians of {steps} steps in turns (lowest-highest)",
        ),
        "## 48 -> 96 pixels, no scorer",
        "",
        "| | seconds | times faster than the official loop | output off by, grey levels |",
        "|---|---|---|---|",
    ]
    found = in_turns([OFFICIAL, OURS] if options.short else SPEED, steps)
    middle = {name: statistics.median(seconds) for name, (_, seconds) in found.items()}
    for name, (error, seconds) in found.items():
        ratio = middle[OFFICIAL] / middle[name]
        lines.append(f"| {name} | {spread(seconds, 3)} | {ratio:.2f} | {error:.3f} |")
    if not options.short:
        lines += scorer_lines(steps)
    publish(lines, options.output)
    what = "a step of EDSR baseline, bf16 (reference: the official loop), s"
    faster = f"{middle[OFFICIAL] / middle[OURS]:.2f} times faster"
    row = Row(what, middle[OURS], middle[OFFICIAL], "2.2 times faster", "2.28", faster)
    hand_over([row], options.json)


def scorer_lines(steps: int) -> list[str]:
    """What the aesthetic term adds."""
    lines = ["", "## What the scorer in the loss adds (MnasNet 1.0, bfloat16)", ""]
    lines += ["| patches | gamma 0 | gamma 0.4 | ratio |", "|---|---|---|---|"]
    for title, without, with_scorer in COST:
        found = in_turns([without, with_scorer], max(5, steps // 2))
        times = [found[name][1] for name in (without, with_scorer)]
        ratio = statistics.median(times[1]) / statistics.median(times[0])
        lines.append(f"| {title} | {spread(times[0], 3)} | {spread(times[1], 3)} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if sys.argv[1:2] == ["--serve"]:
        serve(*WAYS[sys.argv[2]])
    else:
        main()
