"""Measures how long photos take to enhance, and how much memory one takes.

    python benchmarks/enhancing.py [--short] [--output FILE.md]

One photo: EDSR baseline x2 on 1020 x 678 pixels, in tiles and in one piece; `plain` is the network
as PyTorch makes it. A folder: `enhance` against a loop that reads, enhances and writes one photo
after the other. The network of the folder takes about as long as the files, as on a GPU, and one
thread, so that reading and writing have a core to themselves. Each way runs in a process of its
own, in turns. Memory is the peak of the whole process, PyTorch included. CPU time counts all
threads. `--short` takes one round, small photos, and only the ways in which they differ.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import Row, command_line, hand_over, heading, publish, spread

HEIGHT, WIDTH = 678, 1020
PLAIN, AS_SET, BF16 = SHORT_WAYS = (
    "plain, in one piece",
    "`tile=512` (as set)",
    "`tile=512 precision=bfloat16`",
)
# Tile, precision and tiles at once; None is the plain network.
WAYS: dict[str, tuple[int | None, str, int | None] | None] = {
    PLAIN: None,
    "`tile=null`": (None, "float32", None),
    AS_SET: (512, "float32", None),
    "`tile=256`": (256, "float32", None),
    "`tile=256`, tile by tile": (256, "float32", 1),
    BF16: (512, "bfloat16", None),
}
PLAIN_LOOP, PIPELINE = FOLDER_WAYS = ("one after the other", "`enhance`")


def measure(name: str, height: int, width: int) -> dict[str, float]:
    """Seconds of the second time, and peak memory in GB."""
    import torch

    from networks.edsr import EDSR
    from networks.tiling import restore

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = EDSR(2).eval().to(device)
    photo = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    way = WAYS[name]

    def enhance() -> torch.Tensor:
        if way is None:
            with torch.inference_mode():
                sr: torch.Tensor = net(photo[None].to(device).float() / 255)[0]
                return (sr * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        tile, precision, at_once = way
        options = {"tile": tile, "precision": getattr(torch, precision), "at_once": at_once}
        return restore(net, photo, device=device, **options)

    enhance()
    found = timed(enhance)
    found["GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if device.type == "cuda":
        found["GB"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of some work."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "CPU": time.process_time() - cpu}


def measure_folder(name: str, num: int, height: int, width: int) -> dict[str, float]:
    """Seconds for a folder of photos, without loading the network."""
    import torch
    from omegaconf import OmegaConf
    from PIL import Image

    from datamodules.sample import photo
    from images.pixels import to_array
    from images.reading import read_photo
    from images.writing import write_photo
    from lightning_modules.enhancing import enhanced
    from networks.edsr import EDSR
    from runs.enhancing import Pipeline, Task
    from system.device import keep_memory
    from system.progress import Bar

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = EDSR(2) if device.type == "cuda" else EDSR(2, num_blocks=1, num_features=16)
    net.eval().to(device)
    settings = dict(tile="auto", precision="float32", existing="refuse", overwrite=False)
    with tempfile.TemporaryDirectory() as folder:
        coffee = Image.fromarray(to_array(photo("coffee.png"))).resize((width, height))
        tasks = [Task(Path(folder, f"{k}.jpg"), Path(folder, f"{k}_x2.png")) for k in range(num)]
        for task in tasks:
            coffee.save(task.path, quality=95)

        def plain() -> None:
            for path, target in tasks:
                write_photo(target, enhanced(net, read_photo(path), device=device))

        def ours() -> None:
            keep_memory()
            with Bar("enhancing", num) as bar:
                Pipeline(net, OmegaConf.create(settings), device, bar).run(tasks)

        enhanced(net, read_photo(tasks[0].path), device=device)  # warm-up
        return timed(plain if name == PLAIN_LOOP else ours)


def main() -> None:
    """Measures and prints the report."""
    options = command_line(__doc__).parse_args()
    rounds, num = (1, 8) if options.short else (3, 24)
    size = [str(side // (4 if options.short else 1)) for side in (HEIGHT, WIDTH)]
    folder_size = [str(side // (2 if options.short else 1)) for side in (HEIGHT, WIDTH)]
    ways = SHORT_WAYS if options.short else tuple(WAYS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*ways, *FOLDER_WAYS)}
    for _ in range(rounds):
        for name, runs in found.items():
            one = ["--measure", name, *size]
            folder = ["--folder", name, str(num), *folder_size]
            command = [sys.executable, __file__, *(folder if name in FOLDER_WAYS else one)]
            runs.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
    lines = heading(
        "Enhancing photos x2",
        f"medians of {rounds} rounds (lowest-highest), each in a process of its own",
    )
    lines += [
        f"## One photo of {' x '.join(reversed(size))}, EDSR baseline",
        "",
        "| | seconds | CPU seconds | of plain: wall | CPU | peak memory, GB |",
        "|---|---|---|---|---|---|",
        *(row(name, found, PLAIN, memory=True) for name in ways),
        "",
        f"## A folder of {num} photos of {' x '.join(reversed(folder_size))}, from JPEG to PNG",
        "",
        "| | seconds | CPU seconds | of the loop: wall | CPU |",
        "|---|---|---|---|---|",
        *(row(name, found, PLAIN_LOOP, memory=False) for name in FOLDER_WAYS),
    ]
    publish(lines, options.output)
    small, many = f"one photo of {' x '.join(reversed(size))}", f"a folder of {num} photos"
    hand_over(
        [
            Row(f"{what}, {name}, s", middle(found[name]), middle(found[base]), before=before)
            for what, name, base, before in (
                (small, AS_SET, PLAIN, "0.81, at 1020 x 678"),
                (small, BF16, PLAIN, "0.37, at 1020 x 678"),
                (many, PIPELINE, PLAIN_LOOP, "one after the other"),
            )
        ],
        options.json,
    )


def middle(runs: list[dict[str, float]]) -> float:
    """The median of the seconds."""
    return statistics.median(run["seconds"] for run in runs)


def row(
    name: str, found: dict[str, list[dict[str, float]]], reference: str, *, memory: bool
) -> str:
    """A row of a table: times, the ratio to a reference, and memory."""
    times, ratios = [], []
    for unit in ("seconds", "CPU"):
        ours, base = ([run[unit] for run in found[key]] for key in (name, reference))
        times.append(spread(ours))
        ratios.append(f"{statistics.median(ours) / statistics.median(base):.2f}")
    cells = [name, *times, *ratios]
    if memory:
        cells.append(f"{statistics.median(run['GB'] for run in found[name]):.2f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], *map(int, sys.argv[3:]))))
    elif sys.argv[1:2] == ["--folder"]:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(measure_folder(sys.argv[2], *map(int, sys.argv[3:]))))
    else:
        main()
