"""Find photos in folders and their subfolders, by file name, or by glob.

Each file is found once, even if links lead to it. Hidden files and folders, binary stores
(`datamodules.store`), run folders and folders that the caller excludes are skipped. Files that are
not photos are counted by suffix, so that they can be reported.
"""

import contextlib
import fnmatch
import glob
import os
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from images.file_names import printable_name
from images.formats import READ_SUFFIXES, is_photo_start
from system.places import expanded

RESULT = re.compile(r"(.+)_x[1-4]", re.DOTALL)  # stem of a file written by `enhance`: photo_x2.png
STORE_FILE = re.compile(r"\d{5}\.safetensors")  # see `datamodules.store`
# Left beside photos by Windows, macOS and Synology servers.
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
SYSTEM_FOLDERS = ("@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found")
UNREADABLE = "folder that cannot be read: "
MAX_NAMED = 5  # folders in a message
MAX_FILES = 1_000_000  # a search through more is a mistake, such as input=/


class FoundPhoto(NamedTuple):
    """A photo found by a search.

    `relative_path` is relative to the folder searched; `entry` is the index of the entry that found
    the photo, in the list that was searched for.
    """

    path: Path
    relative_path: Path
    entry: int = 0

    @property
    def name(self) -> str:
        """Return the path relative to the folder searched, without suffix."""
        return self.relative_path.with_suffix("").as_posix()


class SearchResult(NamedTuple):
    """The photos found, and the number of other files of each kind."""

    photos: list[FoundPhoto]
    left_out: Counter[str]

    @property
    def paths(self) -> list[Path]:
        """Return the paths of the photos."""
        return [photo.path for photo in self.photos]

    def summary(self) -> str:
        """Describe how many photos were found and which files were left out."""
        num = len(self.photos)
        return f"{num} photo{'' if num == 1 else 's'}" + self.describe_left_out()

    def describe_left_out(self) -> str:
        """Describe how many files of each kind were left out; empty if none."""
        kinds = numbers(self.left_out)
        return f"; left out: {', '.join(kinds)}" if kinds else ""


def numbers(left_out: Mapping[str, int]) -> list[str]:
    """Write how many files of each kind were left out."""
    unreadable = sorted(kind for kind in left_out if kind.startswith(UNREADABLE))
    counts = [
        f"{count} {kind}" for kind, count in sorted(left_out.items()) if kind not in unreadable
    ]
    if unreadable:
        names = [kind.removeprefix(UNREADABLE) for kind in unreadable]
        more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
        folders = "folder" if len(names) == 1 else "folders"
        listed = ", ".join([*names[:MAX_NAMED], *more])
        counts.append(f"{len(names)} {folders} that cannot be read ({listed})")
    return counts


def search(
    where: str | Sequence[str],
    *,
    key: str = "input",
    exclude: Collection[Path] = (),
    results: bool = True,
) -> SearchResult:
    """Find the photos given by a file, a folder, a glob, or a list of these.

    Args:
        where: files, folders or globs, as given by the user.
        key: configuration key, for messages.
        exclude: folders to skip inside the folders searched.
        results: whether to include results of `enhance`. A file is a result if its name ends in
            _x1 to _x4 and its source was found too, in the same folder or at the same relative path
            further up. A file given by its own name is always included.

    Raises:
        ValueError: with a line for each entry that matches no photo.
    """
    given = as_list(where)
    if not given or not all(given):
        raise ValueError(f"{key}= is empty: a file, a folder or a glob is needed")
    skip = {os.path.realpath(folder) for folder in exclude}
    photos: dict[str, FoundPhoto] = {}  # by their real paths
    named: set[str] = set()
    left_out: dict[str, str] = {}
    problems = []
    for number, text in enumerate(given):
        path, label = expanded(text), f"{key}={printable_name(text)}"
        try:
            if path_exists(path, label) and path.is_file():
                named.add(os.path.realpath(path))
                found = {os.path.realpath(path): FoundPhoto(path, Path(path.name))}
            else:
                found, others = find_photos(path, label, skip)
                left_out |= others
        except ValueError as error:
            problems.append(str(error))
            continue
        photos = {real: one._replace(entry=number) for real, one in found.items()} | photos
    if problems:
        raise ValueError("\n".join(problems))
    kept = dict(sorted(photos.items(), key=lambda item: item[1].path))
    if not results:
        stems = {one.relative_path.with_suffix("").parts for one in kept.values()}
        for real, one in list(kept.items()):
            if real not in named and is_result(one.relative_path, stems):
                left_out[real] = "named like results of enhance"
                del kept[real]
    return SearchResult(list(kept.values()), Counter(left_out.values()))


def as_list(where: str | Sequence[str]) -> list[str]:
    """Return one entry or several as a list."""
    return [where] if isinstance(where, str) else list(where)


def find_photos(
    path: Path, given: str, skip: Collection[str]
) -> tuple[dict[str, FoundPhoto], dict[str, str]]:
    """Find the photos of a folder or a glob, and the kinds of all other files, by real path.

    Raises:
        ValueError: if there are no photos or too many files.
    """
    found: dict[str, FoundPhoto] = {}
    left_out: dict[str, str] = {}
    for real, one in find_files(path, given, skip):
        if is_photo(one.path):
            found[real] = one
        else:
            left_out[real] = kind_of(one.path)
        if len(found) + len(left_out) > MAX_FILES:
            raise ValueError(f"{given}: matches more than {MAX_FILES:,} files")
    if not found:
        others = SearchResult([], Counter(left_out.values())).describe_left_out()
        raise ValueError(f"{given}: no photos found ({' '.join(READ_SUFFIXES)}){others}")
    return found, left_out


def base_folder(text: str) -> Path:
    """Return the folder to which the names of an entry's photos are relative."""
    path = expanded(text)
    if path.is_dir():
        return path
    return path.parent if path.exists() else split_glob(path)[0]


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to the operating system."""
    # macOS leaves ._0001.png beside 0001.png
    return name.startswith(".") or name.lower() in (*SYSTEM_FILES, *SYSTEM_FOLDERS)


def photos_by_name(folder: Path) -> tuple[dict[str, str], Counter[str]]:
    """List the photos of a folder by relative path, and count the other files by kind.

    Photos right in the folder count under each of their names, even if these link to one file.
    They are listed without building a `Path` each: for all of AVA that takes 0.4 seconds, not 8.

    Raises:
        ValueError: if there is no such folder, or it cannot be read.
    """
    photos: dict[str, str] = {}
    others: Counter[str] = Counter()
    has_folders = False
    for entry in scan_folder(folder):
        if entry.name.startswith("."):  # macOS leaves ._0001.png beside 0001.png
            continue
        if is_folder(entry):
            has_folders = True
        elif entry.name.lower().endswith(READ_SUFFIXES) or is_photo(folder / entry.name):
            photos[entry.name] = f"{folder}/{entry.name}"
        else:
            others[kind_of(folder / entry.name)] += 1
    if has_folders:
        for _, path in walk(folder):
            if path.parent == folder:
                continue
            if is_photo(path):
                photos[path.relative_to(folder).as_posix()] = str(path)
            else:
                others[kind_of(path)] += 1
    return dict(sorted(photos.items())), others


def path_exists(path: Path, given: str) -> bool:
    """Return whether a file or folder exists; `given` is the user's text, for messages.

    Raises:
        ValueError: if the path cannot be accessed.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False  # perhaps a glob
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{given}: cannot be read ({reason})") from error
    return True


def find_files(path: Path, given: str, skip: Collection[str]) -> Iterator[tuple[str, FoundPhoto]]:
    """Yield the files of a folder, or those matching a glob, with their real paths.

    Raises:
        ValueError: if there is no such file or folder and nothing matches.
    """
    if path.is_dir():
        for real, file in walk(path, skip, given):
            yield real, FoundPhoto(file, file.relative_to(path))
        return
    if path.exists():
        raise ValueError(f"{given}: is not a file, a folder or a glob")
    base, parts = split_glob(path)
    if "**" in parts:
        pattern = re.compile(glob_regex(parts))
        below = walk(base, skip, given) if base.is_dir() else ()
        found = [(r, p) for r, p in below if pattern.fullmatch(p.relative_to(base).as_posix())]
    else:
        names = sorted(glob.glob(str(Path(*parts)), root_dir=base)) if parts else []
        paths = [base / name for name in names]
        files = [(os.path.realpath(p), p) for p in paths if p.is_file() or p.is_symlink()]
        found = [one for one in files if not os.path.isdir(one[0])]
        for folder in paths:
            if folder.is_dir() and os.path.realpath(folder) not in skip:
                found += walk(folder, skip, given)
    if not found:
        raise ValueError(f"{given}: no such file or folder, and no file matches it")
    for real, file in found:
        yield real, FoundPhoto(file, file.relative_to(base))


def split_glob(pattern: Path) -> tuple[Path, list[str]]:
    """Split a glob into the folder it starts from and the parts below.

    A part that exists as written, such as `[2024] trip`, is not a pattern, unless it contains
    `*` or `?`.
    """
    base, parts = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while parts and not ("*" in parts[0] or "?" in parts[0]) and (base / parts[0]).exists():
        base /= parts.pop(0)
    return base, parts


def glob_regex(parts: Sequence[str]) -> str:
    """Translate a glob to a regular expression; `**` matches any folders, or all files below."""
    *folders, last = parts
    texts = [r"(?:[^/]+/)*" if part == "**" else segment_regex(part) + "/" for part in folders]
    return "".join(texts) + (r".+" if last == "**" else segment_regex(last))


def segment_regex(part: str) -> str:
    """Translate a part of a glob to a regular expression that does not match slashes."""
    return fnmatch.translate(part).replace(".*", "[^/]*").removesuffix(r"\Z").removesuffix(r"\z")


def walk(
    folder: Path, skip: Collection[str] = (), given: str | None = None
) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder and its subfolders, each once, with their real paths.

    Hidden files and folders, run folders and binary stores are skipped. Folders are visited before
    links to folders, so that a file is found by its own path if possible.

    Args:
        folder: where to start.
        skip: real paths of folders to skip.
        given: the folder as given by the user, for messages.

    Raises:
        ValueError: if the folder cannot be read or contains too many files.
    """
    folders, links = deque([folder]), deque[Path]()
    seen = set(skip) - {os.path.realpath(folder)}
    while folders or links:
        current = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = scan_folder(current)
        except ValueError:
            if current == folder:
                raise
            yield real, current  # counted as a folder that cannot be read
            continue
        names = {entry.name for entry in entries}
        if current != folder and (".hydra" in names or any(map(STORE_FILE.fullmatch, names))):
            continue
        for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
            path = current / entry.name
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
                continue
            if is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
                continue
            file = f"{real}/{entry.name}"
            if entry.is_symlink():
                with contextlib.suppress(OSError):  # some links in /proc cannot be read
                    file = os.path.realpath(path)
            if len(seen) > MAX_FILES:
                raise ValueError(f"{given or folder}: matches more than {MAX_FILES:,} files")
            if file not in seen:
                seen.add(file)
                yield file, path


def scan_folder(folder: Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder.

    Raises:
        ValueError: if there is no such folder, or it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        reason = f"cannot be read as a folder ({error.strerror})"
        raise ValueError(f"{printable_name(folder)}: {reason}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; broken links are not, so that reading them fails."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_photo(path: Path) -> bool:
    """Return whether a file is a photo, judged by its suffix, or by its content if it has none."""
    if path.suffix:
        return path.suffix.lower() in READ_SUFFIXES
    try:
        if not path.is_file() or not path.stat().st_size:  # opening a pipe would block
            return False
        with open(path, "rb") as file:
            return is_photo_start(file.read(32))
    except OSError:
        return False


def kind_of(path: Path) -> str:
    """Return what to call a file that is no photo, or a folder that cannot be read."""
    if path.is_dir():
        return f"{UNREADABLE}{printable_name(path)}"
    return path.suffix.lower() or "without suffix"


def is_result(path: Path, stems: Collection[tuple[str, ...]]) -> bool:
    """Return whether a file is named like the result of enhancing another photo.

    Paths are relative to the folder searched; `stems` are those of all photos, without suffix.
    """
    match = RESULT.fullmatch(path.stem)
    if match is None:
        return False
    folders = path.parts[:-1]
    return any((*folders[k:], match[1]) in stems for k in range(len(folders) + 1))


def is_one_folder(given: Sequence[str]) -> bool:
    """Return whether a single folder was given."""
    return len(given) == 1 and expanded(given[0]).is_dir()
