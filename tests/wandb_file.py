"""Reads the file that W&B writes offline: what its server would be told."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import

BLOCK = 32768  # bytes; a record's parts do not reach over the end of one
HEAD = 7  # bytes of the file's head, and of each part's: checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class WandbRun(NamedTuple):
    """What one file says.

    Attributes:
        run: id, name, group, job type, tags.
        config: the last value of each key.
        history: the rows that were logged.
        summary: the last value of each key.
        files: paths, relative to the run's `files` folder, that are to be uploaded.
        artifacts: of each artifact by its type, the files by their names in it.
    """

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    files: list[str]
    artifacts: dict[str, dict[str, Path]]


def payloads(data: bytes) -> Iterator[bytes]:
    """The records, each put together from its parts (the format of LevelDB's logs)."""
    assert data[:4] == b":W&B"
    at, record = HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # padding
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        part = data[at + HEAD : at + HEAD + length]
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == checksum
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        record = part if kind in (FULL, FIRST) else record + part
        if kind in (FULL, LAST):
            yield record
        at += HEAD + length


def read_wandb(path: Path) -> WandbRun:
    """Reads a `run-<id>.wandb` file."""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    files: list[str] = []
    artifacts: dict[str, dict[str, Path]] = {}
    run = None
    for payload in payloads(path.read_bytes()):
        record = Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            update(config, record.run.config.update)
        elif kind == "config":
            update(config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            update(row, record.history.item)
            history.append(row)
        elif kind == "summary":
            update(summary, record.summary.update)
        elif kind == "files":
            files += [file.path for file in record.files.files]
        elif kind == "artifact":
            contents = record.artifact.manifest.contents
            artifacts[record.artifact.type] = {c.path: Path(c.local_path) for c in contents}
    assert run is not None
    return WandbRun(run, config, history, summary, files, artifacts)


def update(into: dict[str, Any], items: Any) -> None:  # noqa: ANN401
    """Takes over keys, which may be nested, and their JSON values."""
    for item in items:
        name = item.key or ".".join(item.nested_key)
        into[name] = json.loads(item.value_json)


def columns(history: list[dict[str, Any]]) -> set[str]:
    """The names in a history."""
    return {key for row in history for key in row}
