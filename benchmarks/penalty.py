"""Time a scorer's training step with the terms of robust scorers, beside the plain step.

CPU time on one thread. The settings take turns; median of the rounds, with the lowest and the
highest.
"""

import statistics
import time

import torch
from report import Row, command_line, hand_over, heading, publish, spread

from lightning_modules.losses import emd_loss, input_gradient
from lightning_modules.robust import RobustTerms
from networks.nima import NIMA, mean_score
from system.device import keep_memory

BACKBONE, SIDE = "efficientnet_lite1", 192  # of the bundled scorer for losses
ALL = "slope, adversarial, ranking"
DOUBLE = "model.gradient_penalty"
SETTINGS = {
    "plain": None,
    "slope": RobustTerms(slope=1),
    ALL: RobustTerms(slope=1, adversarial=1, ranking=1),
    DOUBLE: None,
}


def step_seconds(net: NIMA, images_BCHW: torch.Tensor, name: str) -> float:
    """Measure the CPU time of one step."""
    p_BK = torch.full((len(images_BCHW), net.num_buckets), 1 / net.num_buckets)
    seen_BCHW = images_BCHW.clone().requires_grad_(name == DOUBLE)
    start = time.process_time()
    predicted_BK = net(seen_BCHW)
    loss = emd_loss(predicted_BK, p_BK)
    if name == DOUBLE:
        gradient_BCHW = input_gradient(mean_score(predicted_BK), seen_BCHW)
        loss = loss + gradient_BCHW.square().sum(dim=(1, 2, 3)).mean()
    robust = SETTINGS[name]
    if robust is not None:
        loss = loss + robust.weighted(robust(net, images_BCHW, p_BK))
    loss.backward()  # type: ignore[no-untyped-call]
    return time.process_time() - start


def main() -> None:
    """Measure and write the table."""
    options = command_line(__doc__).parse_args()
    rounds, num_images = (2, 4) if options.short else (5, 16)
    keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = NIMA(BACKBONE, crop=SIDE).train().to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images_BCHW = torch.rand(num_images, 3, SIDE, SIDE)
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for turn in range(rounds + 1):
        for name in SETTINGS:
            seconds = step_seconds(net, images_BCHW, name)
            if turn:  # the first one warms up
                times[name].append(1e3 * seconds)
    plain = statistics.median(times["plain"])
    remark = f"{BACKBONE}, {num_images} crops of {SIDE}, {rounds} rounds: median (lowest-highest)"
    lines = heading("Terms of robust scorers", remark)
    lines += ["| step | CPU time, ms | times plain |", "|---|---:|---:|"]
    for name, values in times.items():
        ratio = statistics.median(values) / plain
        lines.append(f"| {name} | {spread(values, 0)} | {ratio:.2f} |")
    publish(lines, options.output)
    rows = [
        Row(f"robust scorer, {name} (reference: plain), ms", statistics.median(values), plain)
        for name, values in times.items()
        if name != "plain"
    ]
    hand_over(rows, options.json)


if __name__ == "__main__":
    main()
