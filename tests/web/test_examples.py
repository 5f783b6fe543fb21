"""The examples of docs/web.md and of the page /api, as shown but for the address."""

import html
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.web.conftest import Serve, Server
from tests.web.test_app import picture

DOCS = (ROOT / "docs" / "web.md").read_text()
VERSIONS = ["1-original.png", "1-bicubic.png", "1-edsr-gamma-0.png"]


def run(folder: Path, *command: str) -> str:
    """What a program prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_python(server: Server, folder: Path, example: str) -> None:
    (folder / "photo.jpg").write_bytes(picture(50, 40, kind="JPEG"))
    lines = run(folder, sys.executable, "-c", example).splitlines()
    assert [line.rpartition(" ")[0] for line in lines[-3:]] == [
        *("original", "bicubic", "EDSR gamma=0")
    ]
    assert all(1 <= float(line.rpartition(" ")[2]) <= 10 for line in lines[-3:])
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(VERSIONS)
    assert Image.open(folder / VERSIONS[-1]).size == (100, 80)


def test_the_python_example_of_the_docs(server: Server, folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    assert "http://127.0.0.1:7860" in example
    check_python(server, folder, example.replace("http://127.0.0.1:7860", server.base))


def test_the_python_example_of_the_page(serve: Serve, folder: Path) -> None:
    with serve(folder / "store", login=("ann", "secret")) as server:
        page = server.client.get("/api").text
        (found,) = re.findall(r'aria-label="Example in Python"><code>(.*?)</code>', page, re.DOTALL)
        example = html.unescape(found)
        assert server.base in example
        example = example.replace('"USER", "PASSWORD"', '"ann", "secret"')
        (folder / "made").mkdir()
        check_python(server, folder / "made", example)


@pytest.mark.skipif(
    not (shutil.which("jq") and shutil.which("curl")), reason="jq or curl is not installed"
)
def test_the_shell_example_of_the_docs(server: Server, folder: Path) -> None:
    (folder / "photo.jpg").write_bytes(picture(50, 40, kind="JPEG"))
    after = DOCS.partition("from a shell")[2]
    lines = after.partition("\n\n")[2].partition("\n\n")[0]
    run(folder, "bash", "-ec", lines.replace("http://127.0.0.1:7860", server.base))
    content = (folder / "1-edsr-gamma-0.png").read_bytes()
    assert Image.open(io.BytesIO(content)).size == (100, 80)
