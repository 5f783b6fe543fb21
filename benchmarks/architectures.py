"""Trains each of spandrel's architectures for a few steps: parameters, time a step, reach.

    python benchmarks/architectures.py [NAME ...] [--short] [--output FILE.md]

Each has the options that `net=spandrel net.arch=NAME` gives it, at x2, and learns one pair of a
built-in photo: a batch of one LR patch of 24 pixels, L1, Adam. `loss` is that of the first and the
last step, in levels of 255. `step` is the median CPU time of a training step. `sees` is how many LR
pixels on each side the gradient of an output pixel reaches, however small it is, in an image of 96
pixels (64 with windows of attention); with a `+` it reaches the border.
"""

import statistics
import time
from typing import NamedTuple

import torch
from report import Row, command_line, hand_over, heading, publish, skip

from datamodules.sample import photo
from images.pixels import to_unit
from networks.bicubic import imresize
from networks.spandrel_net import ARCHITECTURES, SpandrelNet, spandrel

SCALE, PATCH = 2, 24
STEPS = 10
SHORT = ("SPAN", "Compact")
SCALES = {"UpCunet3x": 3, "UpCunet4x": 4}  # the only scales that these have
SIDE, ATTENTION_SIDE = 96, 64  # LR pixels of the image for `sees`; attention takes much memory


class Trained(NamedTuple):
    """What became of an architecture."""

    parameters: int
    seconds: float
    losses: tuple[float, float]
    sees: str


def train(name: str, steps: int) -> Trained:
    """Train an architecture for some steps, and measure it."""
    scale = SCALES.get(name, SCALE)
    torch.manual_seed(0)
    net = SpandrelNet(name, scale)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    hr = photo("coffee.png")[:, 100 : 100 + scale * PATCH, 100 : 100 + scale * PATCH]
    hr_BCHW, lr_BCHW = to_unit(hr)[None], to_unit(imresize(hr, 1 / scale))[None]
    losses, times = [], []
    for _ in range(steps):
        start = time.process_time()
        loss = 255 * (net(lr_BCHW) - hr_BCHW).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.process_time() - start)
        losses.append(loss.item())
    number = sum(parameter.numel() for parameter in net.parameters())
    return Trained(number, statistics.median(times[1:]), (losses[0], losses[-1]), sees(net))


def sees(net: SpandrelNet) -> str:
    """Measure the reach of the gradient of a pixel in the middle."""
    side = SIDE if net.step == 1 else ATTENTION_SIDE
    model, middle = net.module, side // 2
    model.train(net.arch.endswith("PLKSR"))  # whose inference writes into its features
    lr_BCHW = torch.rand(1, 3, side, side, requires_grad=True)
    found = model(lr_BCHW.clone())
    pixel = found[..., net.scale * middle, net.scale * middle].sum()
    (gradient,) = torch.autograd.grad(pixel, lr_BCHW)
    place = gradient.abs().amax((0, 1)).nonzero()
    reach = int((place - middle).abs().max())
    return f"{reach}{'+' if int(place.min()) == 0 or int(place.max()) == side - 1 else ''}"


def main() -> None:
    """Train them, and write the table."""
    parser = command_line(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all by default")
    options = parser.parse_args()
    try:
        spandrel()
    except ValueError as error:
        skip(str(error), options.json)
    names = options.names or (SHORT if options.short else ARCHITECTURES)
    torch.set_num_threads(1)
    lines = heading(
        "Architectures of spandrel", f"batch 1 of {PATCH} LR pixels, {STEPS} steps, one thread"
    )
    lines += ["| `net.arch=` | parameters, M | step, ms of CPU | loss, first and last | sees |"]
    lines += ["|---|---:|---:|---:|---:|"]
    rows = []
    for name in names:
        found = train(name, STEPS)
        first, last = found.losses
        cells = [f"`{name}`", f"{found.parameters / 1e6:.2f}", f"{1e3 * found.seconds:.0f}"]
        cells += [f"{first:.0f}, {last:.0f}", found.sees]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        rows.append(Row(f"{name}: training step, ms of CPU", 1e3 * found.seconds))
    publish(lines, options.output)
    hand_over(rows, options.json)


if __name__ == "__main__":
    main()
