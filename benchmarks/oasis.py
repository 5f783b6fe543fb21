"""Scorers on OASIS by five fixed folds, beside ridge regression on frozen ImageNet features.

    python benchmarks/oasis.py OASIS_FOLDER [--only ridge|efficientnet|mobilenet] [--ava FILE.hdf5]
        [--output FILE.md]

OASIS (Kurdi, Lozano, Banaji 2017): photos with people's ratings of beauty from 1 to 7. The folder
holds `ratings.csv` (image,votes_1,...,votes_7) and `images/`. Each fifth of the photos
(`oasis_folds/fold_K.txt`) is the test set once; a tenth of the other four chooses the epoch. The
runs are ordinary commands, which are printed; what is finished is found again.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from report import command_line, heading, publish, skip
from scipy.stats import spearmanr

from datamodules.rated import RatedFolder
from datamodules.ratings_table import read_ratings
from networks.nima import NIMA, mean_score

ROOT = Path(__file__).resolve().parent.parent
FOLDS = [ROOT / "benchmarks" / "oasis_folds" / f"fold_{k}.txt" for k in range(1, 6)]
METRICS = ("srcc", "lcc", "emd", "emd_batch", "emd_r1", "srcc_std", "lcc_std", "accuracy")
RECIPES = {
    "efficientnet": ["epochs=8", "scorer.resize=288", "scorer.crop=256"],
    # Weights that have seen AVA lose more than they learn at the rate for ImageNet's, 0.1.
    "mobilenet": ["epochs=12", "scorer=mobilenet_v1", "model.backbone_lr=0.03"],
}
COMMON = [
    *("experiment=nima_finetune", "data=rated", "scorer.num_buckets=7", "data.batch_size=32"),
    *("data.val_share=0.1", "trainer.precision=bf16-mixed", "callbacks.ema.decay=0.98"),
    *("callbacks.progress=null", "callbacks.pictures=null"),
]
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)  # of the ridge


def main() -> None:
    """Runs what was asked for and prints a table."""
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="required without --short")
    parser.add_argument("--only", choices=["ridge", *RECIPES])
    parser.add_argument("--ava", type=Path, help="idealo's weights_mobilenet_aesthetic_0.07.hdf5")
    parser.add_argument("--store", type=Path, help="folder of the binary store")
    options = parser.parse_args()
    if options.short:
        skip("needs the photos of OASIS, and hours", options.json)
    if options.folder is None:
        parser.error("the folder of OASIS is missing")
    names = ["ridge", *RECIPES] if options.only is None else [options.only]
    if options.ava is None and "mobilenet" in names:
        names.remove("mobilenet")
    measured = []
    for name in names:
        start = time.monotonic()
        folds = ridge(options) if name == "ridge" else trained(name, options)
        measured += [(name, folds, time.monotonic() - start)]
    lines = heading("Scorers on OASIS", "five folds, mean ± standard deviation")
    lines.append(f"| | SRCC pooled | {' | '.join(METRICS)} | minutes |")
    lines.append("|---|---|" + "---|" * (len(METRICS) + 1))
    for name, folds, seconds in measured:
        cells = []
        for metric in METRICS:
            values = [fold[metric] for fold in folds if metric in fold]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if values else "-")
        pooled = folds[0]["pooled"]
        lines.append(f"| {name} | {pooled:.3f} | {' | '.join(cells)} | {seconds / 60:.0f} |")
        each = ", ".join(f"{fold['srcc']:.3f}" for fold in folds)
        lines.append(f"| {name}, SRCC of each fold | {each} |" + " |" * (len(METRICS) + 1))
    for kind in ("constant", "floor"):
        folds = next((folds for _, folds, _ in measured if f"emd_{kind}" in folds[0]), [])
        if folds:
            means = [np.mean([fold[f"{m}_{kind}"] or np.nan for fold in folds]) for m in METRICS]
            cells = ["-" if np.isnan(value) else f"{value:.3f}" for value in means]
            lines.append(f"| {kind} | | {' | '.join(cells)} | |")
    publish(lines, options.output)


def trained(name: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Trains and evaluates a recipe on each fold."""
    data = [f"data.ratings={options.folder}/ratings.csv", f"data.images={options.folder}/images"]
    data += [f"data.store={options.store}"] * (options.store is not None)
    recipe = [*COMMON, *RECIPES[name]]
    if name == "mobilenet":
        recipe.append(f"scorer.pretrained={options.ava}")
    results, predictions = [], []
    for k, test_list in enumerate(FOLDS, 1):
        run = f"oasis_{name}_{k}"
        python("train", *recipe, *data, f"data.test_list={test_list}", f"name={run}")
        best = f"outputs/nima_finetune/{run}/checkpoints/best.ckpt"
        held_out = f"data.val_list={test_list}"
        python("evaluate", f"checkpoint={best}", "data=rated", *data, held_out, f"name={run}")
        folder = Path("outputs/evaluate") / run
        results.append(json.loads((folder / "result.json").read_text())["metrics"])
        with open(folder / "per_image.csv", newline="") as file:
            predictions += [(row["mean"], row["true_mean"]) for row in csv.DictReader(file)]
    predicted, true = np.array(predictions, np.float64).T
    results[0]["pooled"] = srcc(predicted, true)
    return results


def python(*words: str) -> None:
    """Runs a command line, and shows it."""
    print("python run.py", shlex.join(words), flush=True)
    subprocess.run([sys.executable, str(ROOT / "run.py"), *words], check=True)


def ridge(options: argparse.Namespace) -> list[dict[str, float]]:
    """Ridge regression of the mean on the pooled features of EfficientNet-Lite0 at 256 x 256.

    The penalty of each fold is the best of `PENALTIES` by five-fold cross-validation inside its
    training part.
    """
    net = NIMA("efficientnet_lite0", pretrained="imagenet", resize=256, crop=256).eval()
    net.to(memory_format=torch.channels_last)
    data = RatedFolder(
        str(options.folder / "ratings.csv"),
        str(options.folder / "images"),
        num_buckets=7,
        resize=256,
        crop=256,
        val_list=str(FOLDS[0]),
        store=None if options.store is None else str(options.store),
    )
    data.open()
    images = data.train.images
    features = []
    with torch.inference_mode():
        for k in range(0, len(images), 32):
            block = np.stack([images[i] for i in range(k, min(k + 32, len(images)))])
            x = torch.from_numpy(block).permute(0, 3, 1, 2).float() / 255
            features.append(net.features((x - net.mean) / net.std).mean(dim=(2, 3)))
    x_NF = torch.cat(features).double().numpy()
    ratings = read_ratings(options.folder / "ratings.csv", 7)
    by_name = dict(zip(ratings.names.tolist(), torch.from_numpy(ratings.p_NK), strict=True))
    y_N = mean_score(torch.stack([by_name[name] for name in images.names])).double().numpy()
    tests = [np.flatnonzero(np.isin(images.names, f.read_text().split())) for f in FOLDS]
    predicted = np.zeros_like(y_N)
    results = []
    for test in tests:
        train = np.setdiff1d(np.arange(len(y_N)), test)
        inner = np.array_split(np.random.default_rng(0).permutation(train), 5)
        inside = {}
        for penalty in PENALTIES:
            guess = np.zeros_like(y_N)
            for part in inner:
                rest = np.setdiff1d(train, part)
                guess[part] = fitted(x_NF[rest], y_N[rest], penalty, x_NF[part])
            inside[penalty] = srcc(guess[train], y_N[train])
        best = max(inside, key=lambda penalty: inside[penalty])
        predicted[test] = fitted(x_NF[train], y_N[train], best, x_NF[test])
        lcc = float(np.corrcoef(predicted[test], y_N[test])[0, 1])
        results.append({"srcc": srcc(predicted[test], y_N[test]), "lcc": lcc})
    results[0]["pooled"] = srcc(predicted, y_N)
    return results


def fitted(
    x: NDArray[np.float64], y: NDArray[np.float64], penalty: float, new: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Ridge regression on standardised features, and its predictions for new ones."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / std
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    predicted: NDArray[np.float64] = (new - mean) / std @ weights + y.mean()
    return predicted


def srcc(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(x, y)[0])


if __name__ == "__main__":
    main()
