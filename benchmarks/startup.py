"""Measures how long a command takes to begin: its CPU time beside what it cannot do without.

    python benchmarks/startup.py [--short] [--rounds 5] [--output FILE.md]

Refusals and help are compared with importing Hydra, pydantic and rich. Scoring and enhancing one
photo are compared with a bare script: PyTorch, the network's own module, its weights, and one pass.
Commands and references take turns, each in a process of its own with one thread; the table shows
the least CPU time (user and system) of each, because other processes can only add to it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Row, command_line, hand_over, heading, publish

ROOT = Path(__file__).resolve().parent.parent
SIDE = 96  # pixels of the photo
IMPORTS = "import hydra, pydantic, rich"
BARE_SCORE = """
import torch
from torchvision.models import mnasnet1_0
from PIL import Image
import numpy as np
net = mnasnet1_0(weights=None).eval()
image = torch.from_numpy(np.asarray(Image.open("photo.png"))).permute(2, 0, 1)[None].float() / 255
image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
with torch.inference_mode():
    net(image).softmax(1)
"""
BARE_ENHANCE = """
import torch
from safetensors.torch import load_file
from PIL import Image
import numpy as np
from networks.edsr import EDSR
net = EDSR(2).eval()
net.load_state_dict({k: v.float() for k, v in load_file("edsr.safetensors").items()})
image = torch.from_numpy(np.asarray(Image.open("photo.png"))).permute(2, 0, 1)[None].float() / 255
with torch.inference_mode():
    result = net(image)[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().byte().numpy()
Image.fromarray(result).save("result.png")
"""
# Words of the command, the reference, its limit, and version 0.1.
CASES: dict[str, tuple[list[str], str, str, str]] = {
    "gama=0.1 until its refusal": (["gama=0.1"], IMPORTS, "2.5", "5.7 s"),
    "--help": (["--help"], IMPORTS, "0.4 s", "2.0 s"),
    "score of one photo": (["score", "input=photo.png"], BARE_SCORE, "1.3", "some 8 s"),
    "enhance of one photo": (
        ["enhance", "input=photo.png", "checkpoint=edsr.safetensors", "overwrite=true"],
        BARE_ENHANCE,
        "1.3",
        "some 8 s",
    ),
}


def cpu_seconds(command: list[str], folder: Path) -> float:
    """How much CPU time a command takes, with its children."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if (code := os.waitstatus_to_exitcode(status)) not in (0, 2):  # 2: refused
        sys.exit(f"{' '.join(command)}: exit code {code}\n{errors}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measures every command and its reference in turns."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rounds = 2 if arguments.short else arguments.rounds
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in CASES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        for number in range(rounds + 1):
            for case, (words, reference, _, _) in CASES.items():
                ours = cpu_seconds([sys.executable, str(ROOT / "run.py"), *words], folder)
                bare = cpu_seconds([sys.executable, "-c", reference], folder)
                if number > 0:  # the first round reads files into the cache of the disk
                    times[case][0].append(ours)
                    times[case][1].append(bare)
    rows, lines = [], []
    for case, (_, _, asked, before) in CASES.items():
        ours, bare = (min(values) for values in times[case])
        middle = statistics.median(times[case][0]) / statistics.median(times[case][1])
        rows.append(Row(f"{case}, s of CPU", ours, bare, f"at most {asked}", before))
        lines.append(
            f"| {case} | {ours:.2f} s | {bare:.2f} s | {ours / bare:.2f} ({middle:.2f}) | {asked} |"
        )
    remark = f"{rounds} rounds, one thread; the least CPU time, and the ratio of the medians"
    head = ["| command | ours | reference | ratio | asked, at most |", "|---|---:|---:|---:|---|"]
    publish([*heading("Startup", remark), *head, *lines], arguments.output)
    hand_over(rows, arguments.json)


def make_inputs(folder: Path) -> None:
    """Writes a small photo and links the weights of an enhancer."""
    import skimage.data
    from PIL import Image

    source = Path(skimage.data.__file__).parent / "astronaut.png"
    Image.open(source).resize((SIDE, SIDE)).save(folder / "photo.png")
    (folder / "edsr.safetensors").symlink_to(ROOT / "weights" / "edsr_x2_gamma_0.safetensors")


if __name__ == "__main__":
    main()
