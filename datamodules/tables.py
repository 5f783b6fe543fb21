"""Several tables of rated photos at once, drawn in given shares.

Each table keeps its own split, scale and store; `build_tables` makes one data module of each entry.
"""

import contextlib
import difflib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from datamodules.listing import join_some
from datamodules.published import PublishedRatings
from datamodules.rated import OpenedRatings, RatedFolder, StoredRatings
from datamodules.ratings_dataset import JointRatings
from system.files import file_sha256


@with_config(ConfigDict(strict=True))
class Entry(TypedDict, total=False):
    """What an entry of `data.tables` may hold; see `RatedTables`."""

    ratings: str
    scale: list[float] | None
    published: str
    root: str
    split: Literal["official", "random", "lists"] | None
    val_part: Literal["validation", "test"] | None
    images: str | list[str] | None
    name: str | None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    val_list: str | None
    train_list: str | None
    test_list: str | None
    val_share: float
    split_seed: int
    max_missing: int
    store: str | None


# Keys of one kind of table alone, by the key that tells it.
OWN = {"ratings": {"ratings", "scale"}, "published": {"published", "root", "split", "val_part"}}
NEEDED = {"ratings": ("ratings", "images"), "published": ("published", "root")}


class RatedTables(OpenedRatings):
    """Photos of several tables of ratings, mapped to the K buckets of one scorer.

    Each training batch has every table's share of photos. Validation covers all tables; metrics are
    logged for all photos together and for each table, as `val/srcc/NAME`. No photo may train in one
    table and be held out in another.

    Args:
        tables: the tables, each a mapping with `ratings`, `images` and perhaps `scale` (see
            `RatedFolder`), or with `published`, `root` and perhaps `images`, `split` and `val_part`
            (see `PublishedRatings`). Optional in both: `weight` (share of the training photos up to
            a common factor; 1 by default: all tables equally often, whatever their sizes), `name`
            (by default the stem of the table's file, or the name of the set), `val_list`,
            `train_list`, `test_list`, `val_share`, `split_seed`, `max_missing` and `store` (see
            `StoredRatings`).
        val_share: for tables that do not set their own; so are the next four.
        split_seed: see `StoredRatings`.
        max_missing: see `StoredRatings`.
        native_share: see `StoredRatings`.
        store: see `StoredRatings`.
        rated: arguments of `RatedDataModule`; `limit` applies to each table.
    """

    def __init__(
        self,
        tables: list[dict[str, Any]],
        *,
        val_share: float = 0.2,
        split_seed: int = 0,
        max_missing: int = 0,
        native_share: float = 0.0,
        store: str | None = None,
        **rated: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**rated)
        defaults = {
            **{"val_share": val_share, "split_seed": split_seed, "max_missing": max_missing},
            **{"native_share": native_share, "store": store},
        }
        self.modules = build_tables(tables, **defaults, **rated)
        weights = [float(entry.get("weight", 1)) for entry in tables]
        self.weights = dict(zip(self.modules, weights, strict=True))
        self.parts = tuple(self.modules)
        self.description = "; ".join(f"{n}: {m.description}" for n, m in self.modules.items())

    def open(self) -> None:
        """Read and compare all tables, then open their stores.

        Raises:
            ValueError: naming the table and what is wrong with it.
        """
        if self.digest is not None:
            return
        uses = {}
        for name, module in self.modules.items():
            with naming(name):
                uses[name] = photos_by_use(module)
        refuse_overlaps(uses)
        for name, module in self.modules.items():
            module.reread = self.reread
            with naming(name):
                module.open()
        train, val = ({n: getattr(m, s) for n, m in self.modules.items()} for s in ("train", "val"))
        self.train = JointRatings(train, self.weights, seed=self.seed)
        self.val = JointRatings(val, self.weights, seed=self.seed)
        content = [
            f"{name} {self.weights[name]} {module.digest}" for name, module in self.modules.items()
        ]
        self.digest = hashlib.sha256("\n".join(content).encode()).hexdigest()


def build_tables(tables: Sequence[Mapping[str, Any]], **common: Any) -> dict[str, StoredRatings]:  # noqa: ANN401
    """Build the data module of each entry of `data.tables`, by its name.

    Args:
        tables: the entries (see `RatedTables`).
        common: arguments of `StoredRatings` for all of them; entries override them.

    Raises:
        ValueError: naming the entry, the key, and what is allowed.
    """
    if not tables:
        raise ValueError(
            "data.tables=[]: one or more tables, such as [{ratings: FILE, images: ..}]"
        )
    modules: dict[str, StoredRatings] = {}
    for k, entry in enumerate(tables):
        kind = check_entry(f"data.tables.{k}", entry)
        settings = dict(entry)
        settings.pop("weight", None)
        name = settings.pop("name", None) or Path(settings[kind]).stem
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError(f"data.tables.{k}: name={name}: letters, digits and . _ + - only")
        if name in modules:
            raise ValueError(f"data.tables.{k}: another table is called {name}; give it a name=...")
        with naming(name):
            make = PublishedRatings if kind == "published" else RatedFolder
            modules[name] = make(**(common | settings))
    return modules


def check_entry(where: str, entry: object) -> str:
    """Check the keys of an entry and the types of their values; return the key that tells its kind.

    Raises:
        ValueError: naming the key.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}={entry}: must be {{ratings: FILE, images: FOLDER, ...}}")
    kind, other = "ratings", "published"
    if entry.get("published") is not None:
        kind, other = other, kind
    allowed = [key for key in Entry.__annotations__ if key not in OWN[other]]
    for key in entry:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(allowed)}"
            raise ValueError(f"{where}.{key}: no such key of a table{hint}")
    for key in NEEDED[kind]:
        if entry.get(key) is None:
            raise ValueError(f"{where}.{key}: is required")
    try:
        TypeAdapter(Entry).validate_python(dict(entry))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, message = first["loc"][0], first["msg"].removeprefix("Input ")
        raise ValueError(f"{where}.{key}={entry[key]}: {message}") from error
    return kind


@contextlib.contextmanager
def naming(table: str) -> Iterator[None]:
    """Name the table in whatever its data module refuses, and its keys as the entry has them."""
    try:
        yield
    except ValueError as error:
        text = re.sub(r"\bdata\.(?=\w+=)", "", str(error))
        raise ValueError(f"data.tables: {table}: {text}") from error


class Uses(NamedTuple):
    """Paths of the photos of a table: those that train, and those that validate or test."""

    train: list[str]
    held_out: list[str]


def photos_by_use(module: StoredRatings) -> Uses:
    """Return the paths of a table's photos by their use."""
    ratings, split = module.plan
    photos, _ = module.found
    train, val, test = ([photos[n] for n in ratings.names[part].tolist()] for part in split)
    return Uses(train, val + test)


class Use(NamedTuple):
    """A photo in a table, and whether it is held out there."""

    table: str
    held_out: bool
    path: str


def refuse_overlaps(tables: Mapping[str, Uses]) -> None:
    """Refuse photos that train in one table and are held out in another.

    Photos are compared by content: the sizes of all files, and the SHA-256 of those of equal size.

    Raises:
        ValueError: naming the photos.
    """
    by_size: dict[int, list[Use]] = defaultdict(list)
    for table, uses in tables.items():
        for held_out, paths in ((False, uses.train), (True, uses.held_out)):
            for path in paths:
                with contextlib.suppress(OSError):  # packing lists what cannot be read
                    by_size[os.stat(path).st_size].append(Use(table, held_out, path))
    pairs = []
    for photos in by_size.values():
        by_hash: dict[str, list[Use]] = defaultdict(list)
        if len({photo.table for photo in photos}) > 1 and any(p.held_out for p in photos):
            for photo in photos:
                with contextlib.suppress(OSError):
                    by_hash[file_sha256(photo.path)].append(photo)
        pairs += [pair for same in by_hash.values() for pair in clashes(same)]
    if pairs:
        shown = [
            f"{Path(train.path).name} of {train.table} is {Path(held.path).name} of {held.table}"
            for train, held in pairs
        ]
        raise ValueError(
            f"data.tables: {len(pairs)} photos train in one table and are held out in another: "
            f"{join_some(shown)}; a test_list of the first keeps them out of its training"
        )


def clashes(photos: Sequence[Use]) -> list[tuple[Use, Use]]:
    """Pair the photos that train with those held out in another table."""
    return [
        (train, held)
        for train in photos
        for held in photos
        if held.held_out and not train.held_out and train.table != held.table
    ]
