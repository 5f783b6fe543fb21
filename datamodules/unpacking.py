"""Unpack one folder of a zip file, whole or not at all."""

import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rich.progress import MofNCompleteColumn

from datamodules.disk import need_space
from system.locks import lock
from system.progress import Bar


def unpack(archive: Path, folder: str, root: Path) -> None:
    """Unpack one folder of a zip file; it appears only when complete.

    Args:
        archive: the zip file.
        folder: its name in the zip file and below the root.
        root: where `folder` appears; a hidden folder is used until then.

    Raises:
        ValueError: if the folder exists or is not in the archive, the archive is damaged or has
            members that would be written outside the folder, or the disk is full.
    """
    final = root / folder
    if is_taken(final):
        raise ValueError(f"{final} exists: move it away to unpack {archive}")
    root.mkdir(parents=True, exist_ok=True)
    name = f".{folder.replace('/', '_')}."
    temporary = root / f"{name}{os.getpid()}"
    with open(archive, "rb") as file:
        if not (lock(file) and archive.exists()):  # held, or just unpacked and removed
            raise ValueError(f"{archive}: in use by another process")
        for path in root.iterdir():  # the lock is ours, so these are leftovers of dead processes
            if re.fullmatch(re.escape(name) + r"\d+", path.name):
                shutil.rmtree(path)
        try:
            with zipfile.ZipFile(file) as zipped:
                members = members_of(zipped, archive, folder)
                need_space(root, sum(member.file_size for member in members), archive)
                with Bar(f"unpacking {archive.name}", len(members), MofNCompleteColumn()) as bar:
                    for done, member in enumerate(members, 1):
                        zipped.extract(member, temporary)
                        bar.update(done)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(temporary / folder, final)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"{archive}: not a zip file, or damaged ({error})") from error
        except (zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
            raise ValueError(f"{archive}: cannot unpack {member.filename} ({error})") from error
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{root}: {reason} while unpacking {archive}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def members_of(zipped: zipfile.ZipFile, archive: Path, folder: str) -> list[zipfile.ZipInfo]:
    """Return the files of one folder in a zip file.

    Raises:
        ValueError: if there are none, or any member of the archive would leave the folder.
    """
    paths = [PurePosixPath(name) for name in zipped.namelist()]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{archive}: holds {path}, which would leave its folder")
    wanted = PurePosixPath(folder)
    members = zipped.infolist()
    found = [
        member
        for member, path in zip(members, paths, strict=True)
        if wanted in path.parents and not member.is_dir()
    ]
    if not found:
        depth = len(wanted.parts)
        held = sorted({"/".join(path.parts[:depth]) for path in paths}) or ["nothing"]
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        raise ValueError(f"{archive}: has no folder {folder}; it holds {', '.join(held[:5])}{more}")
    return found


def is_taken(folder: Path) -> bool:
    """Return whether a path exists and is more than an empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
