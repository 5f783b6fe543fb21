"""Fetch, verify and pack data sets."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from datamodules.ava import AVA, CORRUPT, NUM_ABSENT, read_index
from datamodules.degradations import Degradation
from datamodules.div2k import DIV2K
from datamodules.download import Archive, fetch
from datamodules.folders import FolderPairs, PhotoFolders, check_sizes
from datamodules.listing import join_some
from datamodules.packing import BadImages
from datamodules.published import PublishedRatings, missing_files
from datamodules.published_sets import PUBLISHED
from datamodules.rated import RatedFolder, StoredRatings
from datamodules.store import PackedImages, Source, find_corrupt
from images.finding import numbers
from images.reading import probe_size
from networks.views import VIEW_ARGUMENTS
from system.places import display_path, expanded, program
from system.workers import map_parallel

Sizes = NDArray[np.int64]  # N x 2: height, width

log = logging.getLogger(__name__)

DIV2K_URL = "http://data.vision.ee.ethz.ch/cvl/DIV2K/"
# MD5 sums as torchSR (github.com/Coloquinte/torchSR) lists them, sizes as TensorFlow Datasets does.
DIV2K_ARCHIVES = {
    "DIV2K_train_HR": ("bdc2d9338d4e574fe81bf7d158758658", 3530603713),
    "DIV2K_valid_HR": ("9fcdda83005c5e5997799b69f955ff88", 448993893),
    "DIV2K_train_LR_bicubic/X2": ("9a637d2ef4db0d0a81182be37fb00692", 925390592),
    "DIV2K_train_LR_bicubic/X3": ("ad80b9fe40c049a07a8a6c51bfab3b6d", None),
    "DIV2K_train_LR_bicubic/X4": ("76c43ec4155851901ebbe8339846d93d", None),
    "DIV2K_valid_LR_bicubic/X2": ("1512c9a3f7bde2a1a21a73044e46b9cb", 117763600),
    "DIV2K_valid_LR_bicubic/X3": ("18b1d310f9f88c13618c287927b29898", None),
    "DIV2K_valid_LR_bicubic/X4": ("21962de700c8d368c6ff83314480eff0", None),
}
AVA_HELP = """\
AVA cannot be downloaded automatically: its photos belong to their photographers, and its authors
share them for research only. github.com/imfing/ava_downloader links to the usual sources of the
lists (AVA.txt, tags.txt, aesthetics_image_lists/) and the photos (64 archives, 32 GB).
Put them into {root} as
  AVA.txt
  images/<id>.jpg                               255,510 files
  aesthetics_image_lists/generic_test.jpgl      for the official split
  tags.txt                                      to choose tags by name
and run the same command again: it verifies every file."""


def prepare(cfg: DictConfig) -> None:
    """Prepare a data set; exit with 1 if files are bad.

    Args:
        cfg: keys of conf/prepare.yaml.
    """
    steps = {"div2k": prepare_div2k, "ava": prepare_ava}
    try:
        if cfg.dataset == "photos":
            prepare_photos(cfg)
        elif cfg.dataset == "rated":
            prepare_rated(cfg)
        elif cfg.dataset in PUBLISHED:
            title = PUBLISHED[cfg.dataset].title
            prepare_published(cfg, expanded(cfg.root or f"{cfg.paths.data_dir}/{title}"))
        else:
            root = cfg.root or f"{cfg.paths.data_dir}/{cfg.dataset.upper()}"
            steps[cfg.dataset](cfg, expanded(root))
    except BadImages as error:
        log.error("%s", error)
        sys.exit(1)


def prepare_div2k(cfg: DictConfig, root: Path) -> None:
    """Fetch missing archives, check names and sizes, and decode every file."""
    data = DIV2K(str(root), **pair_options(cfg))  # refuses wrong settings before any download
    folders = [name for name in DIV2K_ARCHIVES if "/" not in name or int(name[-1]) in cfg.scales]
    for name in folders if cfg.download else []:
        md5, size = DIV2K_ARCHIVES[name]
        url = f"{DIV2K_URL}{'DIV2K_' + name[6:].replace('/', '_')}.zip"
        fetch(Archive(url, md5, name, size), root, keep=cfg.keep_archives)
    log.info("training: 800 photos; validation: 100; the 100 HR test photos were never published")
    if cfg.pack:
        pack_pairs(data, ("train", "val"))
    else:
        for split in ("train", "val"):
            hr = data.hr_sources(split)
            hr_sizes = verified(hr, f"{split} HR")
            for scale in cfg.scales:
                lr = data.lr_sources(split, scale, hr)
                if lr is not None:
                    check_sizes(hr_sizes, verified(lr, f"{split} LR x{scale}"), lr, scale)
    ready(cfg, f"experiment=div2k_edsr data.root={display_path(root)} gamma=0")


def prepare_photos(cfg: DictConfig) -> None:
    """Decode every photo in the given folders."""
    data = PhotoFolders(None, cfg.root, **pair_options(cfg))
    if cfg.pack:
        pack_pairs(data, ("val",))
    else:
        verified(data.hr_sources("val"), "photos")
    ready(cfg, f"data=photos data.train_hr={as_word(cfg.root)} data.val_hr=... gamma=0")


def prepare_ava(cfg: DictConfig, root: Path) -> None:
    """Verify and decode AVA, or explain how to obtain it."""
    no_images = cfg.images is None and not (root / "images").is_dir()
    if no_images or not (root / "AVA.txt").is_file():
        raise ValueError(f"{root}: AVA.txt or images/ is missing\n" + AVA_HELP.format(root=root))
    options = {"images": cfg.images} | rated_options(cfg)
    data = AVA(str(root), split="official", **options)
    index = read_index(root / "AVA.txt")
    photos, left_out = data.found
    files = np.array(data.files_of(index))
    is_corrupt = np.isin(index.ids, CORRUPT)
    known, wanted = set(files[is_corrupt].tolist()), set(files[~is_corrupt].tolist())
    names = photos.keys()
    where = data.where if cfg.images else "images/"
    log.info("AVA.txt: %d photos; %s: %d files", len(index.ids), where, len(names))
    report("without a file", sorted(wanted - names))
    report("known to be corrupt and not used", sorted(names & known))
    report("not in AVA.txt and not used", sorted(names - wanted - known))
    if left_out:
        log.info("other files: %s", ", ".join(numbers(left_out)))
    too_few = len(wanted - names) > NUM_ABSENT
    if too_few:
        log.error("more photos are missing than the %d that the archive lacks", NUM_ABSENT)
    split = "official"
    try:
        data.find_test_list()
    except ValueError as error:
        log.info("%s", error)
        split = "random"
        data = AVA(str(root), split="random", **options)
    if cfg.pack and not too_few:
        pack_ratings(data)
    else:
        verified([Source(name, photos[name]) for name in sorted(wanted & names)], "photos")
    if too_few:
        sys.exit(1)
    images = f" data.images={as_word(cfg.images)}" if cfg.images else ""
    ready(cfg, f"experiment=nima_mnasnet data.root={root} data.split={split}{images}")


def prepare_rated(cfg: DictConfig) -> None:
    """Read the table and decode every file that it names."""
    options = rated_options(cfg) | {"num_buckets": cfg.num_buckets}
    data = RatedFolder(cfg.ratings, cfg.root, **options)
    photos, _ = data.found
    rated = data.ratings().names.tolist()
    log.info("%s: %d photos; %s: %d files", cfg.ratings, len(rated), data.where, len(photos))
    if check_rated(cfg, data, rated):
        sys.exit(1)
    ready(
        cfg,
        f"experiment=sample_nima data=rated data.ratings={cfg.ratings} "
        f"data.images={as_word(cfg.root)} "
        f"scorer.num_buckets={cfg.num_buckets}",
    )


def check_rated(cfg: DictConfig, data: StoredRatings, rated: Sequence[str]) -> list[str]:
    """Decode or pack the rated photos; return those without a file."""
    photos, left_out = data.found
    missing = [name for name in rated if name not in photos]
    report("without a file", missing)
    report("not in the table and not used", sorted(photos.keys() - set(rated)))
    if left_out:
        log.info("other files: %s", ", ".join(numbers(left_out)))
    if cfg.pack and not missing:
        pack_ratings(data)
    else:
        verified([Source(name, photos[name]) for name in rated if name in photos], "photos")
    return missing


def prepare_published(cfg: DictConfig, root: Path) -> None:
    """Count, decode and pack a published set of rated photos, or explain how to obtain it."""
    layout = PUBLISHED[cfg.dataset]
    missing = missing_files(layout, root)
    if cfg.images is None and not any((root / name).is_dir() for name in layout.images):
        missing.append(f"{' or '.join(layout.images)}/")
    if missing:
        raise ValueError(
            f"{root}: missing {', '.join(missing)}\n"
            f"{layout.title}, {layout.num_photos:,} photos, is at {layout.home}\n"
            f"(licence: {layout.licence}). Put into {root}\n"
            f"{layout.files}\nand run the same command again."
        )
    options = {"images": cfg.images, "num_buckets": cfg.num_buckets} | rated_options(cfg)
    data = PublishedRatings(cfg.dataset, str(root), **options)
    ratings = data.ratings()
    split = data.how
    if split == "official" and not data.knows_parts:
        log.info("%s has the official split, which is missing", layout.tables[""][0])
        split = "random"
        data = PublishedRatings(cfg.dataset, str(root), split="random", **options)
    votes = "" if ratings.num_votes_N is None else f", {ratings.num_votes_N.sum():,} votes"
    photos, _ = data.found
    names = ratings.names.tolist()
    log.info(
        "%s: %d rated photos%s; %s: %d files", root, len(names), votes, data.where, len(photos)
    )
    if len(names) != layout.num_photos:
        log.warning("%s has %d rated photos, not %d", layout.title, len(names), layout.num_photos)
    if check_rated(cfg, data, names):
        sys.exit(1)
    images = f" data.images={as_word(cfg.images)}" if cfg.images else ""
    ready(
        cfg,
        f"experiment=nima_finetune data={cfg.dataset} data.root={display_path(root)} "
        f"data.split={split}{images} scorer.num_buckets={cfg.num_buckets}",
    )


def as_word(where: str | Sequence[str]) -> str:
    """Write what was given for photos as the value of an override."""
    return str(display_path(where)) if isinstance(where, str) else f"[{','.join(where)}]"


def ready(cfg: DictConfig, words: str) -> None:
    """Print a command that trains on these data."""
    store = f" data.store={cfg.store}" if cfg.store else ""
    log.info("ready: %s %s%s", program(), words, store)


def pair_options(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments of the data modules of pairs."""
    degradation = Degradation(blur=float(cfg.blur))
    return {"scale": list(cfg.scales), "degradation": degradation, "store": cfg.store}


def rated_options(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments of the data modules of rated photos."""
    sizes = {name: cfg[name] for name in VIEW_ARGUMENTS}
    return {"store": cfg.store, **sizes}


def verified(sources: Sequence[Source], what: str) -> Sizes:
    """Decode every file; list the bad ones and exit with 1 if there are any."""
    paths = [source.path for source in sources]
    probes = list(map_parallel(probe_size, paths, f"verifying {what}"))
    bad = [found for found in probes if isinstance(found, str)]
    log.info("%s: %d of %d files are good", what, len(paths) - len(bad), len(paths))
    if bad:
        log.error("%d bad files:\n  %s", len(bad), "\n  ".join(bad))
        sys.exit(1)
    return np.array(probes, np.int64)


def report(what: str, names: Sequence[str]) -> None:
    """Log unexpected files, if there are any."""
    if names:
        log.info("%d %s: %s", len(names), what, join_some(names))


def pack_pairs(data: FolderPairs, splits: Sequence[str]) -> None:
    """Pack the images, and verify the checksums of those packed earlier."""
    for split in splits:
        data.fingerprint(split)
        photos = data.split(split)
        for images in (photos.hr, *photos.lr.values()):
            assert isinstance(images, PackedImages)
            check_packed(images)


def pack_ratings(data: StoredRatings) -> None:
    """Pack the images, and verify the checksums of those packed earlier."""
    data.fingerprint()
    assert isinstance(data.train.images, PackedImages)
    check_packed(data.train.images)


def check_packed(images: PackedImages) -> None:
    """Print the place and size of a store; remove files whose checksum is wrong.

    Raises:
        ValueError: if there are such files.
    """
    folder = images.shards[0].parent
    bad = find_corrupt(images.shards)
    for path in bad:
        path.unlink()
    if bad:
        raise ValueError(
            f"{folder}: {len(bad)} files had a wrong checksum and were removed; the same command "
            "packs them again"
        )
    size = sum(path.stat().st_size for path in images.shards)
    log.info("%s: %d images, %.2f GB, checksums match", folder, len(images), size / 1e9)
