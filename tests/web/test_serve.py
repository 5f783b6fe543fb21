"""The command: what it refuses, what it says, and that it begins and ends in order."""

import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, SAMPLE_SCORER, Cli, launch

pytest.importorskip("uvicorn", reason="uvicorn is not installed")

WEIGHTS = ROOT / "weights"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["checkpoint=absent.ckpt"], "checkpoint=absent.ckpt: no such file"),
        (["checkpoint=[]"], "checkpoint=[]: give one or more files, or pairs="),
        (["pairs=[[a.ckpt]]"], "two files each"),
        (["scorer.checkpoint=absent"], "scorer.checkpoint=absent: no such file"),
        (["port=70000"], "port=70000: should be less than or equal to 65535"),
        (["port=web"], "port=web: should be a valid integer"),
        (["host=nowhere.invalid"], "host=nowhere.invalid port=0: cannot bind to this address"),
        (["host=''"], "host="),
        (["user=ann"], "needs password=, or SERVE_PASSWORD"),
        (["password=secret"], "needs user="),
        (["user=''", "password=x"], "user=: string should have at least 1 character"),
        (["keep_hours=1e12"], "should be less than or equal to 87600"),
        (["pairs=[a.ckpt,b.ckpt]"], "should be a valid list"),
        (["output=."], "output=.: contains other files"),
        (["user='a:b'", "password=secret"], "must not contain a colon"),
        (["hosts=['photos.lan:80']"], "hosts: photos.lan:80: must be a name or address"),
        (["max_disk_gb=0.1"], "max_mb=50: at most 25; uploads get a quarter"),
        (["steps=1"], "steps=1: should be greater than or equal to 2"),
        (["max_mb=0"], "max_mb=0: should be greater than or equal to 0.01"),
        (["tile=0"], "tile=0: should be greater than or equal to 16"),
        (["prot=80"], "prot: no such key in serve; did you mean port?"),
        (["scorer=mnasnet_0_5"], "scorer"),
        ([f"checkpoint={SAMPLE_SCORER}"], "of kind scorer; one of kind enhancer"),
        ([f"scorer.checkpoint={WEIGHTS}/edsr_x2_gamma_0.safetensors"], "of kind enhancer"),
        (["device=tpu"], "device=tpu: auto, cpu, cuda"),
    ],
)
def test_what_is_refused(cli: Cli, words: list[str], reason: str) -> None:
    Path("mine.txt").touch()
    refused = cli("serve", "port=0", *words)
    assert refused.code == 2
    assert reason in refused.err
    assert "Traceback" not in refused.err
    assert [path.name for path in Path.cwd().iterdir()] == ["mine.txt"]


def test_pairs_have_to_be_two_trainings_of_one_network(
    cli: Cli,
) -> None:
    high, low = WEIGHTS / "edsr_x2_gamma_0.4.safetensors", WEIGHTS / "edsr_x2_gamma_0.safetensors"
    refused = cli("serve", "port=0", f"pairs=[[{high},{low}]]")
    assert refused.code == 2
    assert "gamma must increase from the first to the second, not 0.4 to 0" in refused.err


def test_a_port_that_is_taken_is_refused(cli: Cli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = cli("serve", f"port={port}")
    assert refused.code == 2
    assert f"host=127.0.0.1 port={port}: cannot bind to this address" in refused.err
    assert "port=0 picks a free one" in refused.err


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str, list[str]]]]:
    """Starts the real command on a free port; gives the process, its address, and what it said."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], str, list[str]]:
        process = launch(folder, "serve", "port=0", *words)
        running.append(process)
        assert process.stdout is not None
        lines: list[str] = []
        while not (found := re.match(r"http://(\S+)", lines[-1] if lines else "")):
            line = process.stdout.readline()
            assert line, lines
            lines.append(line)
        return process, f"http://127.0.0.1:{found[1].rpartition(':')[2]}", lines

    yield start
    for process in running:
        process.kill()
        process.communicate()


def get_json(address: str) -> Any:  # noqa: ANN401
    """What an address answers."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_it_serves_the_shipped_models_and_ends_in_order(
    folder: Path, started: Callable[..., Any]
) -> None:
    process, address, lines = started()
    assert lines == [f"{address}  (press Ctrl-C to stop; results are kept in outputs/web)\n"]
    tasks = get_json(f"{address}/models")
    edsr, mdsr = ([f"{net} gamma={gamma}" for gamma in (0, 0.4)] for net in ("EDSR", "MDSR"))
    assert {task["label"]: [model["name"] for model in task["models"]] for task in tasks} == {
        **{"Enlarge x2": [*edsr, *mdsr], "Enlarge x3": mdsr, "Enlarge x4": mdsr}
    }
    # A second one in the same folder is refused.
    other = launch(folder, "serve", "port=0")
    assert "another process is running this" in other.communicate(timeout=120)[0]
    assert other.returncode == 2
    # What is being worked on when it ends is interrupted, and it ends at once.
    with urllib.request.urlopen(f"{address}/examples/astronaut.png") as answer:
        photo = answer.read()
    request = urllib.request.Request(f"{address}/uploads", photo, {"X-File-Name": "a.png"})
    with urllib.request.urlopen(request) as answer:
        upload = json.loads(answer.read())["id"]
    wanted = {"photos": [upload], "task": "super-resolution", "scale": 2}
    body = json.dumps({**wanted, "models": ["edsr-gamma-0", "edsr-gamma-0.4"]}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/jobs", body, headers)) as answer:
        token = json.loads(answer.read())["token"]
    while get_json(f"{address}/results/{token}/result.json")["state"] == "waiting":
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "Traceback" not in out
    assert process.returncode == 128 + signal.SIGTERM
    saved = json.loads((folder / "outputs" / "web" / token / "result.json").read_text())
    assert saved["state"] == "interrupted"


@pytest.mark.slow
def test_other_machines_are_let_in_with_a_warning_only(
    started: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address, lines = started("host=0.0.0.0")
    assert "host=0.0.0.0: other machines can reach this page, WITHOUT A PASSWORD" in lines[0]
    assert get_json(f"{address}/models")
    monkeypatch.setenv("SERVE_PASSWORD", "secret")
    _, address, lines = started("host=0.0.0.0", "user=ann", "output=other")
    assert "with the password" in lines[0]
    assert "secret" not in "".join(lines)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get_json(f"{address}/models")
