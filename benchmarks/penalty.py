"""Time a scorer's training step with the terms for robust scorers, relative to the plain step.

python benchmarks/penalty.py
python benchmarks/penalty.py --backbone mobilenet_v1 --side 256
"""

import argparse
import time
from collections.abc import Callable

import torch

from lightning_modules.losses import emd_loss, input_gradient
from lightning_modules.robust import RobustTerms
from networks.nima import NIMA, mean_score

REPEATS = 5


def cpu_seconds(step: Callable[[], None]) -> float:
    """Return the least CPU time of a step."""
    step()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="efficientnet_lite1")
    parser.add_argument("--side", type=int, default=192, help="of the crops, in pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = NIMA(args.backbone, crop=args.side).to(memory_format=torch.channels_last)
    for module in net.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images = torch.rand(args.batch_size, 3, args.side, args.side)
    p_BK = torch.full((args.batch_size, 10), 0.1)

    def step(robust: RobustTerms | None = None, *, double: bool = False) -> None:
        seen = images.clone().requires_grad_(double)
        predicted = net(seen)
        loss = emd_loss(predicted, p_BK)
        if double:
            squares = input_gradient(mean_score(predicted), seen).square().sum(dim=(1, 2, 3))
            loss = loss + squares.mean()
        if robust is not None:
            loss = loss + robust.weighted(robust(net, images, p_BK))
        loss.backward()  # type: ignore[no-untyped-call]

    plain = 0.0
    print("| step | CPU, ms | relative |\n|---|---:|---:|")
    for name, timed in {
        "plain": step,
        "slope by a finite difference": lambda: step(RobustTerms(slope=1)),
        "slope, adversarial, ranking": lambda: step(RobustTerms(slope=1, adversarial=1, ranking=1)),
        "model.gradient_penalty": lambda: step(double=True),
    }.items():
        seconds = cpu_seconds(timed)
        plain = plain or seconds
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
