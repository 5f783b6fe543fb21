"""Find photos: in folders and everything below, by file name, or by glob.

Each real file is taken once. Hidden files and folders, binary stores (`datamodules.store`), run
folders and what a caller excludes are left out; what is no photo is counted by its suffix, so that
it can be reported.
"""

import fnmatch
import glob
import os
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from images.file_names import shown
from images.reading import READ_SUFFIXES, is_photo_start

RESULT = re.compile(r"(.+)_x[1-4]", re.DOTALL)  # what `enhance` calls its results: photo_x2.png
STORE_FILE = re.compile(r"\d{5}\.safetensors")  # see `datamodules.store`
# What systems leave beside photos: Windows, macOS, and the thumbnails of Synology's servers.
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
SYSTEM_FOLDERS = ("@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found")
MAX_FILES = 1_000_000  # a search through more is a mistake, such as input=/


class Found(NamedTuple):
    """A photo that was found.

    `below` is its path in the folder that was searched, `entry` the position of what stands for it
    in the list that was given.
    """

    path: Path
    below: Path
    entry: int = 0

    @property
    def name(self) -> str:
        """Its path in the folder that was searched, without suffix."""
        return self.below.with_suffix("").as_posix()


class Search(NamedTuple):
    """Photos, and how many other files there are of each kind."""

    photos: list[Found]
    left_out: Counter[str]

    @property
    def paths(self) -> list[Path]:
        """The photos' paths."""
        return [photo.path for photo in self.photos]

    def summary(self) -> str:
        """How many photos there are, and what was left out."""
        num = len(self.photos)
        return f"{num} photo{'' if num == 1 else 's'}" + self.others()

    def others(self) -> str:
        """What was left out, by its kind."""
        kinds = [f"{count} {kind}" for kind, count in sorted(self.left_out.items())]
        return f"; left out: {', '.join(kinds)}" if kinds else ""


def find_images(where: str | Sequence[str]) -> list[Path]:
    """Image files that `search` finds.

    Raises:
        ValueError: if there is none.
    """
    return search(where).paths


def search(
    where: str | Sequence[str],
    *,
    key: str = "input",
    exclude: Collection[Path] = (),
    results: bool = True,
) -> Search:
    """Find the photos that are meant by a file, a folder, a glob, or a list of these.

    Args:
        where: what a person gave.
        key: of the configuration, for messages.
        exclude: folders to leave out where they lie within one that was given.
        results: keep what `enhance` has written beside its photos. A file is a result if its name
            ends in _x1 to _x4 and its source is there too: in the same folder, or at the same place
            in the tree of the photos. A file that is given by its own name is always kept.

    Raises:
        ValueError: with a line for each of them that stands for no photo.
    """
    given = entries(where)
    if not given or not all(given):
        raise ValueError(f"{key}= is empty: a file, a folder or a glob is needed")
    skip = {os.path.realpath(folder) for folder in exclude}
    photos: dict[str, Found] = {}  # by their real paths
    named: set[str] = set()
    left_out: dict[str, str] = {}
    problems = []
    for number, text in enumerate(given):
        path, label = Path(text).expanduser(), f"{key}={shown(text)}"
        try:
            if is_there(path, label) and path.is_file():
                named.add(os.path.realpath(path))
                found = {os.path.realpath(path): Found(path, Path(path.name))}
            else:
                found, others = photos_of(path, label, skip)
                left_out |= others
        except ValueError as error:
            problems.append(str(error))
            continue
        photos = {real: one._replace(entry=number) for real, one in found.items()} | photos
    if problems:
        raise ValueError("\n".join(problems))
    kept = dict(sorted(photos.items(), key=lambda item: item[1].path))
    if not results:
        stems = {one.below.with_suffix("").parts for one in kept.values()}
        for real, one in list(kept.items()):
            if real not in named and is_result(one.below, stems):
                left_out[real] = "named like results of enhance"
                del kept[real]
    return Search(list(kept.values()), Counter(left_out.values()))


def entries(where: str | Sequence[str]) -> list[str]:
    """What was given, as a list."""
    return [where] if isinstance(where, str) else list(where)


def photos_of(
    path: Path, given: str, skip: Collection[str]
) -> tuple[dict[str, Found], dict[str, str]]:
    """The photos of a folder or a glob, and the kinds of its other files, by their real paths.

    Raises:
        ValueError: if there is no photo, or there are too many files.
    """
    found: dict[str, Found] = {}
    left_out: dict[str, str] = {}
    for real, one in files_of(path, given, skip):
        if is_photo(one.path):
            found[real] = one
        else:
            left_out[real] = kind_of(one.path)
        if len(found) + len(left_out) > MAX_FILES:
            raise ValueError(f"{given}: stands for more than {MAX_FILES:,} files")
    if not found:
        others = Search([], Counter(left_out.values())).others()
        raise ValueError(f"{given}: no photo there ({' '.join(READ_SUFFIXES)}){others}")
    return found, left_out


def folder_of(text: str) -> Path:
    """The folder in which the photos of a file, a folder or a glob have their names."""
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    return path.parent if path.exists() else split_glob(path)[0]


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and of all below it, sorted.

    Raises:
        ValueError: if there is no such folder, or it cannot be read.
    """
    return sorted(path for _, path in Walk(folder) if is_photo(path))


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system leaves beside photos."""
    # macOS leaves ._0001.png beside 0001.png
    return name.startswith(".") or name.lower() in (*SYSTEM_FILES, *SYSTEM_FOLDERS)


def image_names(folder: Path) -> list[str]:
    """Names of the image files right in a folder, without hidden ones.

    A quarter of a million paths would take seconds to build.

    Raises:
        ValueError: if there is no such folder, or it cannot be read.
    """
    return sorted(
        entry.name
        for entry in entries_of(folder)
        if entry.name.lower().endswith(READ_SUFFIXES)
        and not entry.name.startswith(".")  # macOS leaves ._0001.png beside 0001.png
        and not is_folder(entry)
    )


def is_there(path: Path, given: str) -> bool:
    """Whether there is such a file or folder; `given` is how it was given.

    Raises:
        ValueError: if that cannot be found out.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False  # a glob
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{given}: cannot be read ({reason})") from error
    return True


def files_of(path: Path, given: str, skip: Collection[str]) -> Iterator[tuple[str, Found]]:
    """The files of a folder, or of what a glob matches, with their real paths.

    Raises:
        ValueError: if there is no such thing.
    """
    if path.is_dir():
        for real, file in Walk(path, skip, given):
            yield real, Found(file, file.relative_to(path))
        return
    if path.exists():
        raise ValueError(f"{given}: is no file, folder or glob")
    base, parts = split_glob(path)
    if "**" in parts:
        pattern = re.compile(translated(parts))
        walk = Walk(base, skip, given) if base.is_dir() else ()
        found = [(r, p) for r, p in walk if pattern.fullmatch(p.relative_to(base).as_posix())]
    else:
        names = sorted(glob.glob(str(Path(*parts)), root_dir=base)) if parts else []
        paths = [base / name for name in names]
        files = [(os.path.realpath(p), p) for p in paths if p.is_file() or p.is_symlink()]
        found = [one for one in files if not os.path.isdir(one[0])]
        for folder in paths:
            if folder.is_dir() and os.path.realpath(folder) not in skip:
                found += Walk(folder, skip, given)
    if not found:
        raise ValueError(f"{given}: no such file or folder, and no file matches it")
    for real, file in found:
        yield real, Found(file, file.relative_to(base))


def split_glob(pattern: Path) -> tuple[Path, list[str]]:
    """The folder that a glob starts from, and the parts below it.

    Parts that exist as they are written are no patterns, such as `[2024] trip`; a folder that is
    called `*` is one of those that `*` matches.
    """
    base, parts = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while parts and not ("*" in parts[0] or "?" in parts[0]) and (base / parts[0]).exists():
        base /= parts.pop(0)
    return base, parts


def translated(parts: Sequence[str]) -> str:
    """A glob as a regular expression; `**` stands for any number of folders, and for all below."""
    *folders, last = parts
    texts = [r"(?:[^/]+/)*" if part == "**" else segment(part) + "/" for part in folders]
    return "".join(texts) + (r".+" if last == "**" else segment(last))


def segment(part: str) -> str:
    """A part of a glob as a regular expression, which stays within its folder."""
    return fnmatch.translate(part).replace(".*", "[^/]*").removesuffix(r"\Z").removesuffix(r"\z")


class Walk:
    """The files of a folder and of all below it, each once, with their real paths.

    Hidden files and folders, run folders and binary stores are left out. Folders come before links
    to folders, so that a file is named by its own path where it has one.

    Args:
        folder: where to begin.
        skip: real paths of folders to leave out.
        given: how the folder was given, for messages.

    Raises:
        ValueError: if the folder cannot be read, or holds too much.
    """

    def __init__(self, folder: Path, skip: Collection[str] = (), given: str | None = None) -> None:
        self.folder = folder
        self.skip = skip
        self.given = str(folder) if given is None else given

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        folders, links = deque([self.folder]), deque[Path]()
        seen = set(self.skip) - {os.path.realpath(self.folder)}
        while folders or links:
            folder = folders.popleft() if folders else links.popleft()
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            try:
                entries = entries_of(folder)
            except ValueError:
                if folder == self.folder:
                    raise
                yield real, folder  # is no photo, and counted as what it is
                continue
            if folder != self.folder and is_ours(entries):
                continue
            for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
                path = folder / entry.name
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
                    continue
                if is_folder(entry):
                    (links if entry.is_symlink() else folders).append(path)
                    continue
                file = real_path(path) if entry.is_symlink() else f"{real}/{entry.name}"
                if len(seen) > MAX_FILES:
                    raise ValueError(f"{self.given}: stands for more than {MAX_FILES:,} files")
                if file not in seen:
                    seen.add(file)
                    yield file, path


def real_path(path: Path) -> str:
    """The path that a link stands for; its own where it cannot be read, as some in /proc."""
    try:
        return os.path.realpath(path)
    except OSError:
        return str(path)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder.

    Raises:
        ValueError: if there is no such folder, or it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        reason = f"cannot be read as a folder ({error.strerror})"
        raise ValueError(f"{shown(folder)}: {reason}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder; a broken link is none, so that reading it says what is wrong."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_ours(entries: Collection[os.DirEntry[str]]) -> bool:
    """Whether a folder is a run's or part of a binary store: what is there are no photos."""
    return any(entry.name == ".hydra" or STORE_FILE.fullmatch(entry.name) for entry in entries)


def is_photo(path: Path) -> bool:
    """Whether a file is to be read as a photo: by its suffix; without one, by its content."""
    if path.suffix:
        return path.suffix.lower() in READ_SUFFIXES
    try:
        if not path.is_file() or not path.stat().st_size:  # opening a pipe would wait for ever
            return False
        with open(path, "rb") as file:
            return is_photo_start(file.read(32))
    except OSError:
        return False


def kind_of(path: Path) -> str:
    """What to call a file that is no photo."""
    if path.is_dir():
        return "folders that cannot be read"
    return path.suffix.lower() or "without suffix"


def is_result(below: Path, stems: Collection[tuple[str, ...]]) -> bool:
    """Whether a file is called like the result of another one.

    Args:
        below: its path in the folder that was searched.
        stems: the paths of all photos there, without suffix, by their parts.
    """
    match = RESULT.fullmatch(below.stem)
    if match is None:
        return False
    folders = below.parts[:-1]
    return any((*folders[k:], match[1]) in stems for k in range(len(folders) + 1))
