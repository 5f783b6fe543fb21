"""Split BIQ2021's training photos into two halves, with near twins on one side.

Photos are near twins if their 16 x 16 thumbnails correlate by more than 0.97, which finds all
copies and most crops. Training photos with a near twin among the test photos are left out. The
lists that the bundled scorers were trained with are in `biq2021/`:

    python benchmarks/biq_halves.py BIQ2021 --output benchmarks/biq2021
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LEVEL = 0.97  # correlation; below it other photos of similar composition begin
VAL_SHARE = 0.1  # of each half chooses the epoch


def thumbnail(path: Path) -> NDArray[np.float32]:
    """Shrink a photo to 16 x 16, as a vector of mean 0 and length 1."""
    with Image.open(path) as image:
        small = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32)
    vector = small.ravel() - small.mean()
    scaled: NDArray[np.float32] = vector / (np.linalg.norm(vector) + 1e-6)
    return scaled


def listed(root: Path, table: str, files: dict[str, Path]) -> list[Path]:
    """Find the photos of a table, whose names differ from the files' in case."""
    with (root / table).open(newline="") as file:
        return [files[row["Image Name"].lower()] for row in csv.DictReader(file)]


def groups_of(thumbnails_NF: NDArray[np.float32]) -> NDArray[np.int32]:
    """Number the groups of near twins."""
    pairs = np.argwhere(np.triu(thumbnails_NF @ thumbnails_NF.T > LEVEL, 1))
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(thumbnails_NF),) * 2)
    groups: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return groups


def main() -> None:
    """Write the lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of BIQ2021")
    parser.add_argument("--output", type=Path, required=True, help="folder for the lists")
    args = parser.parse_args()
    files = {path.name.lower(): path for path in (args.root / "Images").iterdir()}
    train = sorted(listed(args.root, "Train (Images and MOS).csv", files))
    test = listed(args.root, "Test (Images and MOS).csv", files)
    group_N = groups_of(np.stack([thumbnail(path) for path in [*train, *test]]))
    held_out = np.isin(group_N[: len(train)], group_N[len(train) :])
    order = np.random.default_rng(0).permutation(group_N.max() + 1)  # of the groups
    place_N = order[group_N[: len(train)]]
    parts: dict[str, list[str]] = {name: [] for name in ("train_a", "val_a", "train_b", "val_b")}
    for path, place, held in zip(train, place_N, held_out, strict=True):
        use = "val" if place // 2 % round(1 / VAL_SHARE) == 0 else "train"
        if not held:
            parts[f"{use}_{'ab'[place % 2]}"].append(path.name)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, photos in parts.items():
        (args.output / f"{name}.txt").write_text("\n".join(photos) + "\n")
        print(f"{name}: {len(photos)}")
    print(f"left out, near twins of test photos: {held_out.sum()}")


if __name__ == "__main__":
    main()
