"""Run folders read into `Run`s. They may come from anywhere, so nothing in them is trusted.

Whatever a folder holds, reading it ends, and in no error: what is wrong becomes the run's note.
"""

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_modules.moved import present_names
from reports.run_table import LARGEST, Run, is_scale, number
from runs.run_folder import FILES, FOLDERS, MAX_JSON
from system.regular_files import open_regular, read_regular

MARKS = {*FILES, "console.log", "slurm.json"}  # a folder with one of these was meant to be a run
TAIL = 4096  # bytes of console.log in which its last line is looked for
MAX_CSV = 64 * 2**20  # bytes of metrics.csv, where a step has 100
MAX_ROWS = 500_000  # of metrics.csv: 25 million steps of which every 50th is logged
MAX_COLUMNS = 1000
MAX_EPOCHS = 10**7
MAX_TEXT = 1000  # characters of a setting
MAX_DEPTH = 50  # of objects and lists within each other in JSON
# What neither a page nor a figure can show: control characters, halves of surrogate pairs.
UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

# Types of what is read of run.json and result.json; None is allowed.
ABOUT = {
    **{"config": dict, "settings": dict, "inputs": dict, "choices": dict, "code": dict},
    **{"config_hash": str, "code_hash": str},
}
RESULT = {
    **{"metrics": dict, "warnings": list, "git": dict, "wall_time_s": int | float},
    **{"best_epoch": int, "epochs": int, "data": str, "monitor": str, "finished": str},
    "num_parameters": int,
}

OF_ANY_EPOCH = ("data", "git", "device", "num_parameters", "finished")  # of a result


def find_folders(patterns: Iterable[str]) -> list[Path]:
    """Folders at any depth that hold a run or parts of one, in order of their names.

    Args:
        patterns: folders or globs. Links inside of them are not followed.

    Raises:
        ValueError: if one of them is nothing, or no run is found.
    """
    patterns = list(patterns)
    folders: dict[Path, Path] = {}
    seen: set[str] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
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
    """Folders below this one, and itself, that look like runs.

    Args:
        root: a folder.
        seen: folders that were looked through already, which are left out; gets those of this call.
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
    """Every run of the folders or globs; what is wrong with one is said in its `note`.

    Args:
        patterns: folders or globs.
        epoch: see `stand_at`; None leaves finished runs at their best epoch.

    Raises:
        ValueError: if there is none.
    """
    runs = [read_run(folder) for folder in find_folders(patterns)]
    for run in runs:
        if epoch is not None and run.config and run.command == "train" and run.state != "broken":
            stand_at(run, epoch)
    return runs


def stand_at(run: Run, epoch: int) -> None:
    """Has a run end after an epoch, whether it went on or was not finished.

    Its metrics are those that were logged then. One that has not been validated then is unfinished.
    """
    run.rows = [row for row in run.rows if row.get("epoch", 0) < epoch]
    metrics = {
        name: value
        for row in run.rows
        if row.get("epoch") == epoch - 1
        for name, value in row.items()
        if name.startswith("val/")
    }
    run.photos = []  # of the best epoch
    kept = {k: v for k, v in run.result.items() if k in OF_ANY_EPOCH}
    run.result = {**kept, "metrics": metrics, "best_epoch": epoch, "epochs": epoch}
    if metrics:
        run.state, run.note = "finished", f"taken after epoch {epoch}"
    else:
        run.state, run.note = "unfinished", f"no validation after epoch {epoch}"


def read_run(folder: Path) -> Run:
    """One run folder; nothing in it is an error."""
    run = Run(folder)
    try:
        run.about = present_names(read_object(folder / "run.json", ABOUT))
        if not run.config:
            raise ValueError("run.json has no configuration")
        run.rows = read_rows(folder / "metrics.csv")
        if (folder / "result.json").exists():
            run.result = read_result(folder / "result.json")
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
    """What was wrong with a file, in a line that names it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)


def load_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ValueError: if it holds something else.
    """
    text = read_regular(path, MAX_JSON)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged (not an object)")
    return content


def read_object(path: Path, types: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON file that holds an object, with characters replaced that cannot be shown.

    Args:
        path: the file.
        types: of some of its values, unless they are null. Numbers have to be finite.

    Raises:
        ValueError: if it holds something else.
    """
    try:
        content: dict[str, Any] = printable(load_object(path))
    except RecursionError as error:
        raise ValueError(f"{path.name} is damaged (nested too deeply)") from error
    for key, kind in types.items():
        value = content.get(key)
        infinite = isinstance(value, int | float) and abs(value) > LARGEST
        if value is not None and (not isinstance(value, kind) or value != value or infinite):
            raise ValueError(f"{path.name} is damaged ({key} is {brief(value)})")
    return content


def printable(node: Any, depth: int = 0) -> Any:  # noqa: ANN401
    """A copy of what JSON held, without endless texts and characters that cannot be shown.

    Raises:
        RecursionError: if it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(node, str):
        return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", node[:MAX_TEXT])
    if isinstance(node, list):
        return [printable(item, depth + 1) for item in node]
    if isinstance(node, dict):
        return {printable(key): printable(item, depth + 1) for key, item in node.items()}
    return node


def brief(value: Any) -> str:  # noqa: ANN401
    """The start of a value, for messages."""
    return repr(str(value)[:40])


def read_result(path: Path) -> dict[str, Any]:
    """A result.json whose metrics are numbers or null.

    Raises:
        ValueError: if it holds something else.
    """
    result = read_object(path, RESULT)
    if result.get("metrics") is None:
        raise ValueError("result.json has no metrics")
    for name, value in result["metrics"].items():
        if value is not None and number(value) is None:
            raise ValueError(f"result.json is damaged ({name} is {brief(value)})")
    return result


def read_rows(path: Path) -> list[dict[str, float]]:
    """The finite numbers of metrics.csv; a last row without its end was being written, and is cut.

    A file that is not there has no rows.

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


def parse(text: Any) -> float | None:  # noqa: ANN401
    """A cell as a finite number; None for others and for what is beyond the columns."""
    try:
        return number(float(text))
    except (TypeError, ValueError):
        return None


def read_photos(path: Path, bad: list[str]) -> list[dict[str, Any]]:
    """Rows of photos.json that name a photo and a scale; none if there is no such file.

    Args:
        path: the file.
        bad: gets what is wrong with it: the run's numbers do not depend on it.
    """
    try:
        photos = load_object(path).get("photos")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        bad.append(reason(error))
        return []
    listed = photos if isinstance(photos, list) else []
    kept = [
        photo
        for photo in listed
        if isinstance(photo, dict)
        and isinstance(photo.get("id"), str)
        and is_scale(photo.get("scale"))
    ]
    if photos is not listed or len(kept) < len(listed):
        bad.append("photos.json is damaged (not a list of photos with an id and a scale)")
    return kept


def progress_of(run: Run) -> str:
    """How far an unfinished run is."""
    total = run.key("epochs")
    try:
        epoch = load_object(run.folder / "progress.json")["epoch"]
    except (OSError, ValueError, KeyError):
        epoch = max((int(row["epoch"]) + 1 for row in run.rows if "epoch" in row), default=0)
    return f"epoch {brief_number(epoch)} of {brief_number(total)}"


def brief_number(value: Any) -> str:  # noqa: ANN401
    """A number of epochs as text, of something else the start."""
    return str(value)[:20]


def last_line(path: Path) -> str:
    """The end of a log, empty if there is none."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").split("\n")
    except (OSError, ValueError):
        return ""
    found = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", found)
