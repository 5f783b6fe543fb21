"""Read run folders, without trusting their content: they may come from anywhere.

Reading a folder always terminates and never raises; problems are stored in the run's note.
"""

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from reports.run_files import About, Photo, Result, RunFile, is_scale, number
from reports.run_table import Run
from runs.run_folder import FILES, FOLDERS, MAX_JSON
from system.places import expanded
from system.regular_files import open_regular, read_regular

MARKS = {*FILES, "console.log", "slurm.json"}  # a folder with one of these is a run
TAIL = 4096  # bytes at the end of console.log that are searched for its last line
MAX_CSV = 64 * 2**20  # bytes of metrics.csv, at about 100 per step
MAX_ROWS = 500_000  # of metrics.csv: 25 million steps, with every 50th logged
MAX_COLUMNS = 1000
MAX_EPOCHS = 10**7
MAX_TEXT = 1000  # characters of a setting
MAX_DEPTH = 50  # of nested objects and lists in JSON
# Not displayable in pages and figures: control characters and halves of surrogate pairs.
UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

File = TypeVar("File", bound=RunFile)


def find_folders(patterns: Iterable[str]) -> list[Path]:
    """Find folders at any depth that contain a run or parts of one, sorted by name.

    Args:
        patterns: folders or globs. Links inside them are not followed.

    Raises:
        ValueError: if a pattern matches nothing, or no run is found.
    """
    patterns = list(patterns)
    folders: dict[Path, Path] = {}
    seen: set[str] = set()
    for pattern in patterns:
        path = expanded(pattern)
        found = [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True)))
        roots = [root for root in found if root.is_dir()]
        if not roots:
            what = "is a file; a folder is needed" if path.exists() else "no such file or folder"
            raise ValueError(f"runs={pattern}: {what}")
        for root in roots:
            for place in run_folders(root, seen):
                folders.setdefault(place.resolve(), place)
    if not folders:
        raise ValueError(f"runs={','.join(patterns)}: there is no run (a folder with run.json)")
    return sorted(folders.values())


def run_folders(root: Path, seen: set[str]) -> Iterator[Path]:
    """Yield this folder and folders below it that look like runs.

    Args:
        root: a folder.
        seen: folders to skip, to which those searched in this call are added.
    """
    for place, names, files in os.walk(root):
        if place in seen:
            names.clear()
            continue
        seen.add(place)
        is_run = not MARKS.isdisjoint(files) or not MARKS.isdisjoint(names)
        if is_run:
            yield Path(place)
        own = {*FOLDERS, *MARKS} if is_run else ()
        names[:] = [name for name in names if name not in own and not name.startswith(".")]


def read_runs(patterns: Iterable[str], epoch: int | None = None) -> list[Run]:
    """Read all runs of the folders or globs; problems with a run are stored in its `note`.

    Args:
        patterns: folders or globs.
        epoch: see `cut_off`; None keeps finished runs at their best epoch.

    Raises:
        ValueError: if there are no runs.
    """
    runs = [read_run(folder) for folder in find_folders(patterns)]
    for run in runs:
        if epoch is not None and run.config and run.command == "train" and run.state != "broken":
            cut_off(run, epoch)
    return runs


def cut_off(run: Run, epoch: int) -> None:
    """Treat a run, finished or not, as if it had ended after an epoch.

    Its metrics are those logged then. A run without a validation after that epoch is unfinished.
    """
    run.rows = [row for row in run.rows if row.get("epoch", 0) < epoch]
    metrics = {
        name: value
        for row in run.rows
        if row.get("epoch") == epoch - 1
        for name, value in row.items()
        if name.startswith("val/")
    }
    run.photos = []  # they are of the best epoch
    own = {"metrics": metrics, "best_epoch": epoch, "epochs": epoch}
    run.result = run.result.model_copy(update=own | {"warnings": [], "wall_time_s": None})
    if metrics:
        run.state, run.note = "finished", f"taken after epoch {epoch}"
    else:
        run.state, run.note = "unfinished", f"no validation after epoch {epoch}"


def read_run(folder: Path) -> Run:
    """Read one run folder, without raising."""
    run = Run(folder)
    try:
        run.about = read_file(folder / "run.json", About)
        if not run.config:
            raise ValueError("run.json has no configuration")
        run.rows = read_rows(folder / "metrics.csv")
        if (folder / "result.json").exists():
            run.result = read_file(folder / "result.json", Result)
            if "metrics" not in run.result.model_fields_set:
                raise ValueError("result.json has no metrics")
            run.photos = read_photos(folder / "images" / "photos.json", run.bad_pictures)
        else:
            run.state, run.note = "unfinished", progress_of(run)
    except FileNotFoundError:
        said = last_line(folder / "console.log")
        run.state, run.note = "unfinished", "not begun"
        if said.startswith("packing "):
            run.note = f"not begun: {said}"
        elif said:
            run.state, run.note = "broken", f"no run.json; console.log ends with: {said}"
    except (OSError, ValueError) as error:
        run.state, run.note = "broken", reason(error)
    return run


def reason(error: Exception) -> str:
    """Describe the problem with a file in a line that names it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)


def load_object(path: Path) -> dict[str, JsonValue]:
    """Read a JSON file that contains an object.

    Raises:
        ValueError: if it contains something else.
    """
    text = read_regular(path, MAX_JSON)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged (not an object)")
    return content


def read_file(path: Path, kind: type[File]) -> File:
    """Read a JSON file of a kind, and replace unprintable characters.

    Raises:
        ValueError: naming the first field of another type.
    """
    try:
        return kind.model_validate(printable(load_object(path)))
    except RecursionError as error:
        raise ValueError(f"{path.name} is damaged (nested too deeply)") from error
    except ValidationError as error:
        first = error.errors()[0]
        found = repr(str(first["input"])[:40])
        raise ValueError(f"{path.name} is damaged ({first['loc'][-1]} is {found})") from error


def printable(node: JsonValue, depth: int = 0) -> JsonValue:
    """Copy data from JSON, shortening texts and replacing unprintable characters.

    Raises:
        RecursionError: if it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(node, str):
        return printable_text(node[:MAX_TEXT])
    if isinstance(node, list):
        return [printable(item, depth + 1) for item in node]
    if isinstance(node, dict):
        return {
            printable_text(key[:MAX_TEXT]): printable(item, depth + 1) for key, item in node.items()
        }
    return node


def printable_text(text: str) -> str:
    """Replace characters that pages and figures cannot display."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read the finite numbers of metrics.csv, without a last row that is being written.

    A missing file has no rows.

    Raises:
        ValueError: if it is not a table of epochs.
    """
    try:
        text = read_regular(path, MAX_CSV).decode(errors="replace")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    rows: list[dict[str, float]] = []
    try:
        reader = csv.DictReader(io.StringIO(whole))
        names = reader.fieldnames or []
        is_table = not {"epoch", "step"}.isdisjoint(names) and len(names) <= MAX_COLUMNS
        if whole.strip() and not is_table:
            raise ValueError("metrics.csv is damaged (its first line is not that of a table)")
        for cells in reader:
            row = {k: v for k, text in cells.items() if (v := parse(text)) is not None}
            if not 0 <= row.get("epoch", 0) <= MAX_EPOCHS:
                where = f"line {reader.line_num}"
                raise ValueError(f"metrics.csv is damaged ({where}: epoch is {row['epoch']:g})")
            if len(rows) == MAX_ROWS:
                raise ValueError(f"metrics.csv has more than {MAX_ROWS} rows")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"metrics.csv is damaged ({error})") from error
    return rows


def parse(text: object) -> float | None:
    """Return a cell as a finite number, or None."""
    try:
        return number(float(str(text)))
    except ValueError:
        return None


def read_photos(path: Path, bad: list[str]) -> list[Photo]:
    """Read the rows of photos.json that have an id and a scale; none if it is missing.

    Args:
        path: the file.
        bad: to which problems are added; they do not affect the run's metrics.
    """
    try:
        rows = load_object(path).get("photos")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        bad.append(reason(error))
        return []
    listed = rows if isinstance(rows, list) else [rows]
    photos = [photo for row in listed if (photo := parse_photo(row)) is not None]
    if len(photos) < len(listed):
        bad.append("photos.json is damaged (not a list of photos with an id and a scale)")
    return photos


def parse_photo(row: JsonValue) -> Photo | None:
    """Return a row of photos.json, or None if it is not one."""
    if not isinstance(row, dict):
        return None
    name, scale = row.get("id"), row.get("scale")
    if not (isinstance(name, str) and isinstance(scale, int) and is_scale(scale)):
        return None
    pictures = {key: value for key, value in row.items() if isinstance(value, str) and key != "id"}
    values = {key: known for key, value in row.items() if (known := number(value)) is not None}
    return Photo(name, scale, pictures, values)


def progress_of(run: Run) -> str:
    """Describe the progress of an unfinished run."""
    total = run.key("epochs")
    try:
        epoch: object = load_object(run.folder / "progress.json")["epoch"]
    except (OSError, ValueError, KeyError):
        epoch = max((int(row["epoch"]) + 1 for row in run.rows if "epoch" in row), default=0)
    return f"epoch {str(epoch)[:20]} of {str(total)[:20]}"


def last_line(path: Path) -> str:
    """Return the last line of a log, empty if there is none."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").split("\n")
    except (OSError, ValueError):
        return ""
    found = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return printable_text(found)
