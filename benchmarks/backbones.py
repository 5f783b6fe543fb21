"""Measures what a scorer's backbone costs: parameters, time per photo, time per step of a loss.

    python benchmarks/backbones.py [--short] [--timm NAME,NAME] [--output FILE.md]

Random weights: they change no time. `photo` is the forward of one photo of 224 pixels, four at a
time; `loss` the forward and the gradient to the pixels of 16 patches of 192 pixels, both as `score`
and the aesthetic loss compute them (batch norms folded, channels-last, memory kept). The backbones
take turns; median of the rounds, with the lowest and the highest.
"""

import statistics
import time
from collections.abc import Callable

import torch
from report import Row, command_line, hand_over, heading, publish, spread

from networks.backbones import BACKBONES
from networks.nima import NIMA, inference_copy, mean_score
from networks.views import Library
from system.device import keep_memory

ROUNDS = 5
SHORT = ("mnasnet_1_0", "efficientnet_lite0")
PHOTOS, SIDE = 4, 224
PATCHES, PATCH = 16, 192


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, after another one."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def photo_and_loss(
    scorer: NIMA, device: torch.device, precision: torch.dtype
) -> tuple[float, float]:
    """Milliseconds of a photo, and of the patches of one step."""
    photos = torch.rand(PHOTOS, 3, SIDE, SIDE, device=device)
    photos = photos.contiguous(memory_format=torch.channels_last)
    patches = torch.rand(PATCHES, 3, PATCH, PATCH, device=device)
    patches = patches.contiguous(memory_format=torch.channels_last).requires_grad_()

    @torch.inference_mode()
    def rate() -> None:
        scorer(photos)

    def step() -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            score = mean_score(scorer(patches)).sum()
        torch.autograd.grad(score, patches)

    return milliseconds(rate, device) / PHOTOS, milliseconds(step, device)


def main() -> None:
    """Measures and writes the table."""
    parser = command_line(__doc__)
    parser.add_argument("--timm", default="", metavar="NAMES", help="instead: backbones of timm")
    options = parser.parse_args()
    names, rounds = (SHORT, 3) if options.short else (tuple(BACKBONES), ROUNDS)
    if options.timm:
        names, rounds = tuple(options.timm.split(",")), 3
    keep_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    library: Library | None = "timm" if options.timm else None
    scorers = {name: NIMA(name, library=library) for name in names}
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            fast = inference_copy(scorer).to(device)
            photo, loss = photo_and_loss(fast, device, torch.float32)
            _, half = photo_and_loss(fast, device, torch.bfloat16)
            times[name].append((photo, loss, half))
    lines = heading("Backbones of scorers", f"{rounds} rounds: median (lowest-highest)")
    lines += ["| | parameters, K = 10 | photo, ms | loss, ms a step | loss in bf16, ms a step |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, measured in times.items():
        number = sum(parameter.numel() for parameter in scorers[name].parameters())
        cells = " | ".join(spread(column, 1) for column in zip(*measured, strict=True))
        lines.append(f"| {name} | {number:,} | {cells} |")
    publish(lines, options.output)
    if options.timm:
        return
    ours, reference = (statistics.median(half for *_, half in times[name]) for name in SHORT)
    what = f"a loss of {PATCHES} patches by MnasNet 1.0, bf16 (reference: EfficientNet-Lite0), ms"
    hand_over([Row(what, ours, reference, before="56 / 82 = 0.68")], options.json)


if __name__ == "__main__":
    main()
