"""Measures how fast photos are scored, beside pyiqa's NIMA and the plain forward.

python benchmarks/scoring.py [PHOTOS] [--large FOLDER] [--checkpoint FILE ...] [--pyiqa PYTHON]
    [--short] [--output FILE.md]

PHOTOS is a folder of some hundred photos (default: crops of the built-in ones); `--large` holds
large PNG files. `--pyiqa` is the Python of an environment with pyiqa, whose weights do not matter
and are not fetched. Without it the plain forward stands in, which takes as long within 2 %. Scores
in bfloat16 are compared with float32 for every checkpoint. Each way runs in a process of its own,
in turns; medians of several rounds, with the lowest and the highest.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import Row, command_line, hand_over, heading, publish, spread

BACKBONE, SIDE = "efficientnet_lite0", 224
TIMM_NAME = "tf_efficientnet_lite0"
ROUNDS = 3
MANY = 32  # fewer files are read several times, so that starting the threads does not count
DECODE = "decoding alone"
PLAIN, PYIQA = "plain forward, one by one", "pyiqa's NIMA, one by one"
SCORE, SCORE_BF16 = "`score`", "`score precision=bfloat16`"
BATCH, PATCH = 16, 192  # of the loss


def files(folder: str) -> list[Path]:
    """Image files of a folder."""
    return sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".png", ".jpg"))


# What runs in a process of its own. Each returns numbers. ------------------------------------


def pyiqa_one_by_one(folder: str) -> dict[str, float]:
    """Pyiqa's NIMA on the same backbone and input size, one file after the other."""
    import timm
    import torch

    create = timm.create_model
    timm.create_model = lambda name, pretrained=True, **more: create(name, **more)
    from pyiqa.archs.nima_arch import NIMA  # type: ignore[import-not-found]
    from pyiqa.utils.img_util import imread2tensor  # type: ignore[import-not-found]

    device = pick()
    net = NIMA(TIMM_NAME, pretrained=False).eval().to(device)
    assert net.base_model.default_cfg["input_size"][-1] == SIDE

    def score(path: Path) -> None:
        with torch.no_grad():  # as its InferenceModel does
            net(imread2tensor(str(path), rgb=True)[None].to(device)).item()

    def score_all(paths: list[Path]) -> None:
        for path in paths:
            score(path)

    return per_file(score_all, folder)


def plain(folder: str) -> dict[str, float]:
    """Our network as PyTorch makes it, one file after the other."""
    net = scorer().to(pick())

    def score_all(paths: list[Path]) -> None:
        for path in paths:
            net.score(path)

    return per_file(score_all, folder)


def command(folder: str, precision: str = "float32") -> dict[str, float]:
    """What `python run.py score` does."""
    from lightning_modules.scoring import BATCH_SIZE, rate_files
    from system.device import keep_memory
    from system.workers import num_cores

    keep_memory()
    device = pick()
    batch_size = BATCH_SIZE if device.type == "cpu" else 64
    net = scorer()

    def score(paths: list[Path]) -> None:
        options: dict[str, Any] = {"device": device, "precision": precision}
        workers = num_cores()
        for _ in rate_files(net, paths, batch_size=batch_size, num_workers=workers, **options):
            pass

    return per_file(score, folder)


def command_bf16(folder: str) -> dict[str, float]:
    """The same in bfloat16."""
    return command(folder, "bfloat16")


def decode(folder: str) -> dict[str, float]:
    """Decoding alone, in as many threads as the command uses."""
    from concurrent.futures import ThreadPoolExecutor

    from images.reading import read_image
    from system.workers import num_cores

    def read(paths: list[Path]) -> None:
        with ThreadPoolExecutor(num_cores()) as pool:
            for _ in pool.map(lambda path: read_image(path).shape, paths):
                pass

    return per_file(read, folder)


def decode_alone(folder: str) -> dict[str, float]:
    """Decoding alone, one file after the other."""
    from images.reading import read_image

    return per_file(lambda paths: [read_image(path).shape for path in paths], folder)


def bfloat16_error(folder: str, checkpoint: str) -> dict[str, float]:
    """How far bfloat16 moves the scores of a checkpoint."""
    import torch

    from lightning_modules.checkpoint import load_scorer
    from lightning_modules.scoring import rate_files
    from networks.nima import mean_score

    net = load_scorer(checkpoint)
    device = pick()
    found = []
    for precision in ("float32", "bfloat16"):
        ratings = rate_files(net, files(folder), device=device, precision=precision)
        p_NK = torch.stack([rating.p_K for rating in ratings if rating.p_K is not None])
        found.append(mean_score(p_NK))
    error = (found[0] - found[1]).abs()
    return {
        "largest": error.max().item(),
        "mean": error.mean().item(),
        "spread": found[0].std().item(),
    }


def gradient(folder: str, variant: str) -> dict[str, float]:
    """Forward and gradient to the pixels, as in the loss of an enhancer."""
    import torch

    from networks.nima import fold_batch_norms, inference_copy, mean_score
    from system.device import keep_memory

    device = pick()
    if "memory kept" in variant:
        keep_memory()
    net = scorer().requires_grad_(False)
    if "folded" in variant and "channels-last" in variant:
        net = inference_copy(net)
    elif "folded" in variant:
        fold_batch_norms(net)
    elif "channels-last" in variant:
        net.to(memory_format=torch.channels_last)
    net.to(device)
    images = torch.rand(BATCH, 3, PATCH, PATCH, device=device, requires_grad=True)

    def step() -> None:
        torch.autograd.backward(mean_score(net(images)).sum())
        if device.type == "cuda":
            torch.cuda.synchronize()

    weights = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    times = []
    for _ in range(12):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    if device.type == "cuda":
        peak = (torch.cuda.max_memory_allocated() - weights) / 1e6
    return {"ms": 1000 * statistics.median(times), "MB": peak}


def pick() -> Any:  # noqa: ANN401
    """The device; float32 means float32 there."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def scorer() -> Any:  # noqa: ANN401
    """The scorer that is timed."""
    from networks.nima import NIMA

    return NIMA(BACKBONE, resize_rule="short_side", resize=SIDE, crop=SIDE).eval()


def per_file(score: Callable[[list[Path]], object], folder: str) -> dict[str, float]:
    """Milliseconds a file, after a warm-up."""
    paths = files(folder)
    paths *= max(1, MANY // len(paths))
    score(paths[:16])
    start = time.perf_counter()
    score(paths)
    return {"ms": 1000 * (time.perf_counter() - start) / len(paths)}


# What runs them and writes the report. --------------------------------------------------------


def measured(python: str, function: str, *arguments: str) -> dict[str, float]:
    """Numbers of one function, in a new process."""
    words = [python, __file__, "--measure", function, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def in_turns(ways: dict[str, tuple[str, ...]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (python, *words) in ways.items():
            found[name].append(measured(python, *words)["ms"])
            print(name, found[name][-1], flush=True)
    return found


def make_photos(folder: Path) -> None:
    """Crops of the built-in photos, of the size and number that let threads settle."""
    from PIL import Image

    from datamodules.sample import TRAIN_PHOTOS, VAL_PHOTOS, photo
    from images.pixels import to_array

    names = (*TRAIN_PHOTOS, *VAL_PHOTOS)
    for k in range(96):
        crop_CHW = photo(names[k % len(names)])[:, k // len(names) :][:, :280, :440]
        Image.fromarray(to_array(crop_CHW)).save(folder / f"{k:02}.jpg", quality=95)


def small_photos(photos: str, pyiqa: str | None, rounds: int) -> tuple[list[str], list[Row]]:
    """The report on usual photos, and the rows of `make bench`."""
    python = sys.executable
    ways: dict[str, tuple[str, ...]] = {
        DECODE: (python, "decode_alone", photos),
        PLAIN: (python, "plain", photos),
        SCORE: (python, "command", photos),
        SCORE_BF16: (python, "command_bf16", photos),
    }
    if pyiqa:
        ways[PYIQA] = (pyiqa, "pyiqa_one_by_one", photos)
    found = in_turns(ways, rounds)
    lines = [
        *heading(
            "Scoring",
            f"NIMA on {BACKBONE} at {SIDE} pixels; {len(files(photos))} photos",
            f"medians of {rounds} rounds (lowest-highest), each way in a process of its own",
        ),
        "## Time per photo, decoding included",
        "",
        "| | ms per photo | times faster than pyiqa | than the plain forward |",
        "|---|---|---|---|",
    ]
    theirs = found.get(PYIQA)
    for name, values in found.items():
        others = [None, None] if name == DECODE else [theirs, found[PLAIN]]
        middle = statistics.median(values)
        ratios = ["-" if o is None else f"{statistics.median(o) / middle:.2f}" for o in others]
        lines.append(f"| {name} | {spread(values)} | {' | '.join(ratios)} |")
    reference = statistics.median(found.get(PYIQA, found[PLAIN]))
    rows = []
    for name, before in ((SCORE, "2.82 times as fast"), (SCORE_BF16, "3.09 times as fast")):
        what = f"{name}, ms a photo (reference: one by one, as pyiqa does)"
        ours = statistics.median(found[name])
        ratio = f"{reference / ours:.2f} times as fast"
        rows.append(Row(what, ours, reference, "at least 3 times as fast", before, ratio))
    return lines, rows


def large_photos(large: str) -> list[str]:
    """The report on large files."""
    python = sys.executable
    ways: dict[str, tuple[str, ...]] = {
        "decoding alone, in the same threads": (python, "decode", large),
        "decoding alone, one by one": (python, "decode_alone", large),
        SCORE: (python, "command", large),
        SCORE_BF16: (python, "command_bf16", large),
    }
    found = in_turns(ways, ROUNDS)
    base = statistics.median(next(iter(found.values())))
    return [
        *("", f"## Large PNG files ({len(files(large))})", ""),
        *("| | ms per photo | of decoding |", "|---|---|---|"),
        *(
            f"| {name} | {spread(values)} | {statistics.median(values) / base:.2f} |"
            for name, values in found.items()
        ),
    ]


def gradients(photos: str) -> list[str]:
    """The report on the scorer in a loss."""
    lines = ["", f"## Forward and gradient to the pixels, {BATCH} patches of {PATCH} pixels", ""]
    lines += ["| | ms | MB on top of the network |", "|---|---|---|"]
    for variant in (
        *("as PyTorch makes it", "folded", "channels-last", "folded, channels-last"),
        "folded, channels-last, memory kept",
    ):
        runs = [measured(sys.executable, "gradient", photos, variant) for _ in range(ROUNDS)]
        times = spread([run["ms"] for run in runs])
        lines.append(f"| {variant} | {times} | {statistics.median(r['MB'] for r in runs):.0f} |")
    return lines


def report(options: argparse.Namespace, photos: str) -> None:
    """Measure and print the report."""
    rounds = 2 if options.short else ROUNDS
    lines, rows = small_photos(photos, options.pyiqa, rounds)
    if options.large:
        lines += large_photos(options.large)
    if options.checkpoint:
        lines += ["", "## bfloat16 against float32: change of the mean score", ""]
        lines += ["| scorer | largest | mean | spread of the scores |", "|---|---|---|---|"]
        for checkpoint in options.checkpoint:
            error = measured(sys.executable, "bfloat16_error", photos, checkpoint)
            cells = " | ".join(f"{error[key]:.4f}" for key in ("largest", "mean", "spread"))
            lines.append(f"| {Path(checkpoint).name} | {cells} |")
    if not options.short:
        lines += gradients(photos)
    publish(lines, options.output)
    hand_over(rows, options.json)


def main() -> None:
    """Read the command line, and make photos if there are none."""
    parser = command_line(__doc__)
    parser.add_argument("photos", nargs="?")
    parser.add_argument("--large")
    parser.add_argument("--pyiqa")
    parser.add_argument("--checkpoint", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            make_photos(Path(folder))
        report(options, options.photos or folder)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(globals()[sys.argv[2]](*sys.argv[3:])))
    else:
        main()
