"""A search that stands for a whole disk ends at a limit, also where no file is a photo."""

from pathlib import Path

import pytest

from datamodules.folders import PhotoFolders
from images import finding


@pytest.mark.parametrize("where", ["p", "p/**", "p/**/*.png", "p/*", "p/**/x", ["p/0", "p"]])
def test_the_limit_of_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str | list[str]
) -> None:
    for k in range(12):
        path = Path(f"p/{k % 3}/{k}{'.png' if k % 2 else '.txt'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert finding.MAX_FILES == 1_000_000
    monkeypatch.setattr(finding, "MAX_FILES", 9)
    with pytest.raises(ValueError, match=r"^input=p.*: matches more than 9 files$"):
        finding.search(where)
    with pytest.raises(ValueError, match=r"^data\.val_hr=p.*: matches more than 9 files$"):
        PhotoFolders(None, where).hr_sources("val")
    monkeypatch.setattr(finding, "MAX_FILES", 100)
    assert len(finding.search("p").photos) == 6


def test_the_walk_ends_at_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(40):
        path = Path(f"p/{k}/{k}.txt")
        path.parent.mkdir(parents=True)
        path.touch()
    opened: list[Path] = []
    scan_folder = finding.scan_folder
    monkeypatch.setattr(finding, "MAX_FILES", 50)
    monkeypatch.setattr(finding, "scan_folder", lambda p: opened.append(p) or scan_folder(p))  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="more than 50 files"):
        finding.search("p/**/*.png")
    assert len(opened) < 40
