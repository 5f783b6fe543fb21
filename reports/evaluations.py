"""Measurements of single photos by `evaluate`, for the runs whose checkpoints it measured.

They come from run folders of `evaluate` among the folders of a report: per_image.csv has the
values, and result.json says from which training each network comes.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from reports.run_reading import MAX_COLUMNS, MAX_CSV, MAX_ROWS, parse, printable_text, reason
from reports.run_table import Run, stem
from runs.verdicts import Criteria
from system.regular_files import read_regular

NAMES = ("image", "scale", "net")  # columns that are no measurements
USUAL = Criteria(judges=0.75, against=0, psnr_loss=0.3, count=None)  # as in conf/evaluate.yaml


@dataclass(frozen=True)
class Evaluation:
    """What one command measured.

    Attributes:
        run: of the command.
        values: of each measure by network, scale and photo.
        names: of the networks, by the `config_hash` of their training.
        criteria: what makes a candidate better.
    """

    run: Run
    values: dict[tuple[str, int], dict[str, dict[str, float]]]
    names: dict[str, str]
    criteria: Criteria

    @property
    def measures(self) -> list[str]:
        """Return the names of all measures, in order."""
        photos = [values for by_photo in self.values.values() for values in by_photo.values()]
        return list(dict.fromkeys(name for values in photos for name in values))

    @property
    def judges(self) -> list[str]:
        """Describe the scorers: `judge_oasis: nima_oasis (1a2b3c4d)`."""
        found = []
        for key, sha in self.run.about.inputs.items():
            group, _, name = key.partition(".")
            shown = {"judges": f"judge_{name}", "judge": "score_judge", "scorer": "score"}
            if group in shown:
                path = stem(str(self.run.key(key)))
                found.append(f"{shown[group]}: {path} ({sha[:8]})")
        return found

    def dependent(self, runs: Sequence[Run]) -> dict[str, str]:
        """Return the judges that are not independent of the loss of runs, with the reasons."""
        found: dict[str, str] = {}
        for run in runs:
            if (name := self.names.get(run.about.config_hash)) is not None:
                found |= self.run.result.nets[name].dependent
        return found


def evaluations_of(runs: Sequence[Run]) -> list[Evaluation]:
    """Read the evaluations among runs; the note of a damaged one says why it is left out."""
    found = []
    for run in runs:
        names = {net.config_hash: name for name, net in run.result.nets.items() if net.config_hash}
        if run.command != "evaluate" or run.state != "finished" or not names:
            continue
        try:
            values = read_values(run.folder / "per_image.csv")
        except (OSError, ValueError) as error:
            run.state, run.note = "broken", reason(error)
            continue
        found.append(Evaluation(run, values, names, criteria_of(run)))
    return found


def read_values(path: Path) -> dict[tuple[str, int], dict[str, dict[str, float]]]:
    """Read the finite numbers of per_image.csv by network, scale and photo.

    Raises:
        ValueError: if it is not such a table.
    """
    text = read_regular(path, MAX_CSV).decode(errors="replace")
    values: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    try:
        reader = csv.DictReader(io.StringIO(text))
        columns = reader.fieldnames or []
        if not set(NAMES) <= set(columns) or len(columns) > MAX_COLUMNS:
            raise ValueError(f"{path.name} is damaged (its first line is not that of a table)")
        for k, row in enumerate(reader):
            scale = parse(row["scale"])
            if k == MAX_ROWS or None in (row["net"], row["image"], scale):
                raise ValueError(f"{path.name} is damaged (line {reader.line_num})")
            assert scale is not None
            measured = {name: parse(row[name]) for name in columns if name not in NAMES}
            known = {printable_text(n): v for n, v in measured.items() if v is not None}
            values.setdefault((row["net"], int(scale)), {})[row["image"]] = known
    except csv.Error as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
    return values


def criteria_of(run: Run) -> Criteria:
    """Return the criteria of an evaluation; the usual ones if it has none."""
    try:
        return Criteria.model_validate(run.key("criteria"))
    except ValidationError:
        return USUAL
