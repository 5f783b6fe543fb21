"""Measures training on a GPU: throughput, share of its peak, memory, and where the time goes.

    python benchmarks/gpu.py [--short] [--output FILE.md] [--rounds 3] [--only TEXT]

Steps of `EnhancementModule` and `NIMAModule` in a bare loop, as Lightning takes them, without data
and logging. Each way is a process of its own; all of them start and compile side by side, then
they are measured one at a time, in turns. The arithmetic is counted by
`torch.utils.flop_counter`, forward and backward, the scorer included. PyTorch lets cuDNN use TF32
in float32 convolutions, so that is what their share refers to. `loop.py --gpu` compares a step of
`python run.py` with a bare loop, and `grid.py` ways to run several trainings on one GPU.
"""

import collections
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Row, command_line, hand_over, heading, publish, skip, spread

ROUND = 0.4  # seconds
DTYPES = {"32": "float32", "bf16": "bfloat16", "16": "float16"}
# Dense peak, TFLOP/s, of the GPUs' data sheets (SXM); float32 is TF32.
PEAKS = {"H100 80GB HBM3": {"32": 494.7, "bf16": 989.4, "16": 989.4}}
PEAKS["H200"] = PEAKS["H100 80GB HBM3"]
# What a kernel is, by a part of its name; the first that fits.
KINDS = {
    "fused by the compiler": ("triton",),  # named after what they fuse
    "convolutions and matrices": ("conv", "gemm", "cudnn", "xmma", "cutlass", "wgrad", "dgrad"),
    "optimizer": ("multi_tensor", "adam"),
    "batch norm": ("batch_norm", "bn_", "batchnorm"),
    "casts, copies, layouts": ("copy", "memcpy", "memset", "nchw", "nhwc", "cat", "fill"),
}


@dataclass(frozen=True)
class Way:
    """One way of training: what, how large, and how it is computed."""

    net: str
    size: int  # LR side, or side of the crops of a scorer
    batch: int
    precision: str
    compile: bool | str = False
    gamma: float = 0.0

    @property
    def title(self) -> str:
        """Its name in the tables."""
        how = {False: "", True: ", compiled", "reduce-overhead": ", CUDA graphs"}[self.compile]
        scorer = f", gamma {self.gamma}" if self.gamma else ""
        return f"{self.precision}{how}, batch {self.batch}{scorer}"


def ways(*each: tuple[Any, ...]) -> list[Way]:
    """One way for each tuple."""
    return [Way(*arguments) for arguments in each]


GRAPHS = "reduce-overhead"
TABLES: dict[str, list[Way]] = {
    "EDSR baseline x2, 48 -> 96": ways(
        ("edsr", 48, 16, "32"),
        ("edsr", 48, 16, "16"),
        ("edsr", 48, 16, "bf16"),
        ("edsr", 48, 16, "bf16", True),
        ("edsr", 48, 16, "bf16", GRAPHS),
        ("edsr", 48, 64, "bf16", True),
        ("edsr", 48, 256, "bf16", True),
    ),
    "EDSR baseline x2 at the paper's patches, 24 -> 48": ways(
        ("edsr", 24, 16, "bf16"),
        ("edsr", 24, 16, "bf16", GRAPHS),
        ("edsr", 24, 16, "bf16", False, 0.4),
        ("edsr", 24, 16, "bf16", True, 0.4),
        ("edsr", 24, 16, "bf16", GRAPHS, 0.4),
        ("edsr", 96, 16, "bf16", GRAPHS),
        ("edsr", 96, 16, "bf16", GRAPHS, 0.4),
    ),
    "EDSR (32 x 256) x2, 48 -> 96": ways(
        ("edsr_full", 48, 16, "32"),
        ("edsr_full", 48, 16, "bf16"),
        ("edsr_full", 48, 16, "bf16", GRAPHS),
        ("edsr_full", 48, 64, "bf16", GRAPHS),
    ),
    "MDSR baseline, x2, x3 and x4 in turns, LR 48": ways(
        ("mdsr", 48, 16, "32"),
        ("mdsr", 48, 16, "bf16"),
        ("mdsr", 48, 16, "bf16", GRAPHS),
    ),
    "NIMA (MnasNet 1.0), crops of 192": ways(
        ("nima", 192, 128, "32"),
        ("nima", 192, 128, "bf16"),
        ("nima", 192, 128, "bf16", True),
        ("nima", 192, 512, "bf16", True),
    ),
}
SHORT = Way("edsr", 48, 16, "bf16", GRAPHS)
PROFILED = [
    Way("edsr", 48, 16, "bf16"),
    Way("edsr", 48, 16, "bf16", GRAPHS),
    Way("edsr", 24, 16, "bf16", False, 0.4),
    Way("edsr", 24, 16, "bf16", GRAPHS, 0.4),
    Way("edsr_full", 48, 16, "bf16"),
    Way("nima", 192, 128, "bf16"),
    Way("nima", 192, 128, "bf16", True),
]


def module_of(way: Way) -> Any:  # noqa: ANN401
    """The LightningModule of a way."""
    from functools import partial

    import torch

    from lightning_modules.enhancement import EnhancementModule
    from lightning_modules.losses import HybridLoss
    from lightning_modules.nima import NIMAModule
    from lightning_modules.schedules import Constant
    from networks.edsr import EDSR
    from networks.mdsr import MDSR
    from networks.nima import NIMA

    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-4)
    if way.net == "nima":
        return NIMAModule(NIMA("mnasnet_1_0"), adam, Constant(), compile=way.compile)
    nets: dict[str, Callable[[], Any]] = {
        "edsr": lambda: EDSR(2),
        "edsr_full": lambda: EDSR(2, num_blocks=32, num_features=256, res_scale=0.1),
        "mdsr": MDSR,
    }
    loss = HybridLoss(way.gamma, NIMA("mnasnet_1_0"))
    return EnhancementModule(nets[way.net](), loss, adam, Constant(), compile=way.compile)


def serve(way: Way) -> None:
    """Prints what was counted; then answers `steps N` and `profile N`, each in one line."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lightning_modules.losses import emd_loss

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = module_of(way).to(device)
    scales = module.scales if way.net != "nima" else [1]
    dtype = getattr(torch, DTYPES[way.precision])
    optimizer = torch.optim.Adam(module.net.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=way.precision == "16")

    def data(batch: int) -> list[tuple[Any, Any]]:
        first = torch.rand(batch, 3, way.size, way.size, device=device)
        if way.net == "nima":
            return [(first, torch.rand(batch, 10, device=device).softmax(dim=1))]
        sides = [scale * way.size for scale in scales]
        return [(first, torch.rand(batch, 3, side, side, device=device)) for side in sides]

    def loss_of(pair: tuple[Any, Any], scale: int) -> Any:  # noqa: ANN401
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if way.net == "nima":
                return emd_loss(module(pair[0]), pair[1])
            return module.loss(module(pair[0], scale), pair[1]).total

    plain = module_of(Way(way.net, way.size, way.batch, way.precision, False, way.gamma)).to(device)
    compiled, module, flops = module, plain, 0.0
    for pair, scale in zip(data(2), scales, strict=True):  # an uncompiled twin is counted
        with FlopCounterMode(display=False) as counter:
            loss_of(pair, scale).backward()
        flops += counter.get_total_flops() * way.batch / 2 / len(scales)
    module = compiled
    del plain
    pairs = data(way.batch)
    taken = 0

    def step() -> None:
        nonlocal taken
        k = taken % len(scales)
        taken += 1
        optimizer.zero_grad()
        scaler.scale(loss_of(pairs[k], scales[k])).backward()
        scaler.step(optimizer)
        scaler.update()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(6 * len(scales)):
        step()
    wait()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    print(json.dumps({"flops": flops}), flush=True)
    for line in sys.stdin:
        what, number = line.split()
        start = time.perf_counter()
        if what == "profile":
            activity = torch.profiler.ProfilerActivity
            with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
                for _ in range(int(number)):
                    step()
                wait()
            answer: dict[str, Any] = {"kernels": kernels(profile, int(number))}
        else:
            for _ in range(int(number)):
                step()
            wait()
            answer = {"seconds": (time.perf_counter() - start) / int(number)}
            if device.type == "cuda":
                answer["memory"] = torch.cuda.max_memory_reserved() / 2**30  # with graphs' pools
        print(json.dumps(answer), flush=True)


def kernels(profile: Any, steps: int) -> dict[str, Any]:  # noqa: ANN401
    """Milliseconds and number of kernels of a step, by kind."""
    from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]

    found: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for event in profile.events():
        if event.device_type == DeviceType.CUDA:
            name = event.name.lower()
            fits = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
            kind = found[next(fits, "activations, sums, losses")]
            kind[0] += event.time_range.elapsed_us() / 1e3 / steps
            kind[1] += 1 / steps
    return dict(found)


class Worker:
    """A process that trains in one way."""

    def __init__(self, way: Way) -> None:
        self.way = way
        command = [sys.executable, __file__, "--serve", json.dumps(vars(way))]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.flops = 0.0
        self.seconds: list[float] = []
        self.memory = 0.0
        self.number = 3

    def answer(self) -> dict[str, Any] | None:
        """The next line that it prints; None where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, what: str, number: int) -> dict[str, Any]:
        """Its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {number}\n")
        self.process.stdin.flush()
        found = self.answer()
        if found is None:
            raise RuntimeError(f"{self.way}: ended")
        return found

    def measure(self) -> None:
        """One round, after a first one that says how many steps a round has."""
        if not self.seconds:
            self.number = max(3, round(ROUND / self.ask("steps", 3 * self.number)["seconds"]))
        found = self.ask("steps", self.number)
        self.seconds.append(found["seconds"])
        self.memory = found.get("memory", 0.0)

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def row(worker: Worker, peaks: dict[str, float]) -> str:
    """Of a table."""
    way, seconds = worker.way, statistics.median(worker.seconds)
    tflops = worker.flops / seconds / 1e12
    peak = peaks.get(way.precision)
    share = f"{100 * tflops / peak:.1f} %" if peak else "-"
    size = f", LR {way.size}" if way.size == 96 else ""
    times = spread([1e3 * value for value in worker.seconds], 2)
    return (
        f"| {way.title}{size} | {times} | {way.batch / seconds:,.0f} | {tflops:.1f} | {share} "
        f"| {worker.memory:.1f} |"
    )


def matrix_rate() -> float:
    """TFLOP/s of an 8192 x 8192 x 8192 product in bfloat16, random numbers."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - start) / 1e12


def main() -> None:
    """Measures and prints the report."""
    import torch

    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="tables whose title has this")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        skip("there is no GPU", options.json)
    tables = {title: each for title, each in TABLES.items() if options.only in title}
    if options.short:
        tables = {"EDSR baseline x2, 48 -> 96": [SHORT]}
    wanted = [way for each in tables.values() for way in each]
    workers = {way: Worker(way) for way in wanted}
    for way, worker in list(workers.items()):
        found = worker.answer()
        if found is None:
            print(f"{way}: did not start", file=sys.stderr)
            worker.end()
            del workers[way]
        else:
            worker.flops = found["flops"]
    for _ in range(options.rounds):
        for worker in workers.values():
            worker.measure()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peaks = next((peaks for part, peaks in PEAKS.items() if part in name), {})
    lines = heading(
        "Training on a GPU",
        f"an 8192 x 8192 x 8192 product in bfloat16: {matrix_rate():.0f} TFLOP/s",
        f"medians of {options.rounds} rounds in turns (lowest-highest), one process at a time",
    )
    head = "| | ms a step | patches or photos a second | TFLOP/s | of the peak | memory, GiB |"
    for title, each in tables.items():
        lines += [f"## {title}", "", head, "|---|---:|---:|---:|---:|---:|"]
        lines += [row(workers[way], peaks) for way in each if way in workers] + [""]
    lines += ["## Where the time of a step goes", ""]
    lines += ["| | wall, ms | kernels, ms (number) | by kind, ms (number) |", "|---|---:|---:|---|"]
    for way in PROFILED:
        if way in workers:
            found = workers[way].ask("profile", 10)["kernels"]
            total = [sum(column) for column in zip(*found.values(), strict=True)] or [0.0, 0.0]
            kinds = sorted(found.items(), key=lambda item: -item[1][0])
            each_kind = "; ".join(f"{kind} {ms:.2f} ({num:.0f})" for kind, (ms, num) in kinds)
            wall = 1e3 * statistics.median(workers[way].seconds)
            lines.append(
                f"| {way.net} {way.size}, {way.title} | {wall:.2f} | {total[0]:.2f} "
                f"({total[1]:.0f}) | {each_kind} |"
            )
    for worker in workers.values():
        worker.end()
    publish(lines, options.output)
    if SHORT in workers:
        what = f"a step of EDSR baseline on a GPU in a bare loop, {SHORT.title}, ms"
        hand_over([Row(what, 1e3 * statistics.median(workers[SHORT].seconds))], options.json)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if sys.argv[1:2] == ["--serve"]:
        serve(Way(**json.loads(sys.argv[2])))
    else:
        main()
