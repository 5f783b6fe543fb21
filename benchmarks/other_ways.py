"""Other ways of reading training data, to compare with.

Photos in the forms that other code bases read, and loaders in their manner, which do everything for
each sample: EDSR-PyTorch, BasicSR, super-image, and what is usual for rated photos. Photos are
H x W x 3 arrays, LR half as large as HR; `folder` is where `make_photos` put them.
"""

import importlib
import importlib.util
import io
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.degradations import shrink
from images.finding import search
from images.pixels import to_array, to_tensor, to_unit
from images.reading import read_image
from networks.nima import resize_images
from system.places import expanded
from system.workers import map_parallel

WIDTH, HEIGHT = 2040, 1356  # the usual size of DIV2K
NUM_PHOTOS = 24
NUM_JPEGS = 9  # cut out of each photo; AVA is made of such
SUB = 480  # side of BasicSR's sub-images of DIV2K
SCALE = 2
BUILT_IN = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "retina.jpg",
            "rocket.jpg")  # fmt: skip
HAS_LMDB = importlib.util.find_spec("lmdb") is not None  # no dependency of the project

Arrays = tuple[NDArray[Any], NDArray[Any]]  # LR and HR
Read = Callable[[Path, int], Arrays]  # item k of what lies in a folder


@dataclass(frozen=True)
class MakePhoto:
    """Makes one photo of 2040 x 1356 in every form that is compared."""

    folder: Path
    given: list[Path]  # photos that are large enough; the built-in ones if empty

    def __call__(self, k: int) -> None:
        """Photo k; where there are not enough, they come again, flipped."""
        paths = self.given or [Path(skimage.data.__file__).parent / name for name in BUILT_IN]
        image = Image.open(paths[k % len(paths)]).convert("RGB")
        if self.given:
            upright = image.height > image.width
            image = image.transpose(Image.Transpose.ROTATE_90) if upright else image
            left, top = (image.width - WIDTH) // 2, (image.height - HEIGHT) // 2
            hr = np.array(image.crop((left, top, left + WIDTH, top + HEIGHT)))
        else:  # mirrored until they are large enough; the noise makes PNG files as large as DIV2K's
            more = ((0, max(0, HEIGHT - image.height)), (0, max(0, WIDTH - image.width)), (0, 0))
            tiled = np.pad(np.array(image), more, mode="symmetric")[:HEIGHT, :WIDTH]
            noise = np.random.default_rng(k).normal(size=tiled.shape)
            hr = np.rint(tiled + noise).clip(0, 255).astype(np.uint8)
        turn = k // len(paths)
        hr = np.ascontiguousarray(hr[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1])
        lr = to_array(shrink(to_tensor(hr), SCALE))
        for name, array in (("HR", hr), ("LR", lr)):
            Image.fromarray(array).save(self.folder / name / f"{k:04}.png")
            (self.folder / "sep" / name / f"{k:04}.pt").write_bytes(pickle.dumps(array))
        for j in range(NUM_JPEGS):
            left, top = j % 3 * (WIDTH - 1280) // 2, j // 3 * (HEIGHT - 960) // 2
            crop = Image.fromarray(hr).crop((left, top, left + 1280, top + 960))
            small = crop.resize((640, 480), Image.Resampling.BICUBIC)
            small.save(self.folder / "rated" / f"{k:04}_{j}.jpg", quality=90)


def make_photos(folder: Path, photos: str | None, num_photos: int = NUM_PHOTOS) -> str:
    """Makes the photos that everything is measured on.

    Args:
        folder: where to.
        photos: folder of large photos to cut them from; the built-in ones if None.
        num_photos: number of photos.

    Returns:
        What they are.

    Raises:
        ValueError: if no photo of the folder is large enough.
    """
    for name in ("HR", "LR", "sep/HR", "sep/LR", "rated"):
        (folder / name).mkdir(parents=True)
    given = []
    for path in search(str(expanded(photos))).paths if photos else []:
        with Image.open(path) as image:
            if max(image.size) >= WIDTH and min(image.size) >= HEIGHT:
                given.append(path)
    if photos and not given:
        raise ValueError(f"--photos {photos}: no photo of at least {WIDTH}x{HEIGHT} in this folder")
    make = MakePhoto(folder, given[:num_photos])
    list(map_parallel(make, range(num_photos), "making photos"))
    megabytes = np.mean([path.stat().st_size for path in (folder / "HR").iterdir()]) / 1e6
    again = ", the same ones flipped where there are fewer"
    what = f"crops of {min(len(given), num_photos)} given photos{again}"
    if not given:
        what = f"made of scikit-image's {len(BUILT_IN)} colour photos, mirrored until they are "
        what += f"large enough, with noise of one grey level{again}"
    return (
        f"{num_photos} photos of {WIDTH}x{HEIGHT}, {what}; "
        f"{megabytes:.1f} MB a PNG file (DIV2K: 4.4 MB)"
    )


def read_png(folder: Path, k: int, num_photos: int = NUM_PHOTOS) -> Arrays:
    """Whole PNG files."""
    names = [folder / side / f"{k % num_photos:04}.png" for side in ("LR", "HR")]
    lr, hr = (np.asarray(Image.open(name).convert("RGB")) for name in names)
    return lr, hr


def read_pickle(folder: Path, k: int, num_photos: int = NUM_PHOTOS) -> Arrays:
    """Whole photos that were decoded once and pickled."""
    names = [folder / "sep" / side / f"{k % num_photos:04}.pt" for side in ("LR", "HR")]
    lr, hr = (pickle.loads(name.read_bytes()) for name in names)
    return lr, hr


class ReadSubImages:
    """PNG-compressed sub-images in LMDB; float32 in [0, 1] as soon as they are decoded."""

    def __init__(self, folder: Path) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        self.databases = []
        for side, size in (("LR", SUB // SCALE), ("HR", SUB)):
            database = lmdb.open(str(folder / f"{side}.lmdb"), map_size=1 << 32, readahead=False)
            self.num = 0
            with database.begin(write=True) as transaction:
                for path in search(str(folder / side)).paths:
                    whole = Image.open(path)
                    for top in range(0, whole.height - size + 1, size):
                        for left in range(0, whole.width - size + 1, size):
                            buffer = io.BytesIO()
                            part = whole.crop((left, top, left + size, top + size))
                            part.save(buffer, "PNG", compress_level=1)
                            transaction.put(str(self.num).encode(), buffer.getvalue())
                            self.num += 1
            self.databases.append(database)

    def __call__(self, folder: Path, k: int) -> Arrays:
        """One sub-image."""
        arrays = []
        for database in self.databases:
            with database.begin() as transaction:
                content = transaction.get(str(k % self.num).encode())
            arrays.append(np.asarray(Image.open(io.BytesIO(content)), np.float32) / 255.0)
        return arrays[0], arrays[1]


class EachPair(Dataset[Any]):
    """One pair per item: read, cut out, flipped and rotated in NumPy, made a float tensor."""

    def __init__(self, read: Read, folder: Path, size: int) -> None:
        self.read, self.folder, self.size = read, folder, size

    def __len__(self) -> int:
        return 1 << 14  # an epoch of 1024 batches of 16

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        """Float tensors, 3 x H x W."""
        lr, hr = self.read(self.folder, k)
        top = random.randrange(lr.shape[0] - self.size + 1)
        left = random.randrange(lr.shape[1] - self.size + 1)
        flip_columns, flip_rows, transpose = (random.random() < 0.5 for _ in range(3))

        def cut(image: NDArray[Any], scale: int) -> Tensor:
            first, start, side = top * scale, left * scale, self.size * scale
            patch = image[first : first + side, start : start + side]
            patch = patch[:, ::-1] if flip_columns else patch
            patch = patch[::-1] if flip_rows else patch
            patch = patch.transpose(1, 0, 2) if transpose else patch
            return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1))).float()

        return cut(lr, 1), cut(hr, SCALE)


class EachPhoto(Dataset[Any]):
    """One rated photo per item: decoded, resized, cut out and flipped for each sample.

    Args:
        paths: JPEG files.
        exact: resize by the scorer's rule, else by Pillow.
    """

    def __init__(self, paths: list[Path], *, exact: bool) -> None:
        self.paths, self.exact = paths, exact

    def __len__(self) -> int:
        return 1 << 14

    def __getitem__(self, k: int) -> tuple[Tensor]:
        """A crop, float32 in [0, 1]."""
        path = self.paths[k % len(self.paths)]
        if self.exact:
            image = resize_images(to_unit(read_image(path))[None], "squash", "bilinear", 256, 192)[
                0
            ]
        else:
            small = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
            image = to_unit(to_tensor(np.array(small)))
        top, left = random.randrange(65), random.randrange(65)
        crop = image[:, top : top + 192, left : left + 192]
        return (crop.flip(-1) if random.random() < 0.5 else crop,)
