"""Measures how long a photo takes to enhance, and how much memory, tiled and in one piece.

    python benchmarks/enhancing.py [--output FILE.md]

EDSR baseline x2 on 1020 x 678 pixels. Each way runs in a process of its own, in turns; `plain` is
the network as PyTorch makes it. Memory is the peak of the whole process, PyTorch included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from report import heading, publish, spread

ROUNDS = 3
HEIGHT, WIDTH = 678, 1020
# Tile and precision; None is the plain network.
WAYS: dict[str, tuple[int | None, str] | None] = {
    "plain, in one piece": None,
    "`tile=null`": (None, "float32"),
    "`tile=512` (as set)": (512, "float32"),
    "`tile=256`": (256, "float32"),
    "`tile=512 precision=bfloat16`": (512, "bfloat16"),
}


def measure(name: str) -> dict[str, float]:
    """Seconds of the second time, and peak memory in GB."""
    import torch

    from networks.edsr import EDSR
    from networks.tiling import restore

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = EDSR(2).eval().to(device)
    photo = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    way = WAYS[name]

    def enhance() -> torch.Tensor:
        if way is None:
            with torch.inference_mode():
                sr: torch.Tensor = net(photo[None].to(device).float() / 255)[0]
                return (sr * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        tile, precision = way
        options = {"tile": tile, "precision": getattr(torch, precision)}
        return restore(net, photo, device=device, **options)

    enhance()
    start = time.perf_counter()
    enhance()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    return {"seconds": seconds, "GB": peak}


def main() -> None:
    """Measures and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, runs in found.items():
            command = [sys.executable, __file__, "--measure", name]
            runs.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
    lines = [
        *heading(
            f"Enhancing a photo of {WIDTH} x {HEIGHT} by EDSR baseline x2",
            f"medians of {ROUNDS} rounds (lowest-highest), each in a process of its own",
        ),
        "| | seconds | of plain | peak memory, GB |",
        "|---|---|---|---|",
    ]
    base = statistics.median(run["seconds"] for run in next(iter(found.values())))
    for name, runs in found.items():
        times = [run["seconds"] for run in runs]
        middle = statistics.median(times)
        memory = statistics.median(run["GB"] for run in runs)
        lines.append(f"| {name} | {spread(times)} | {middle / base:.2f} | {memory:.2f} |")
    publish(lines, options.output)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
