"""How the web page's server ends: in order, in one line, whatever its clients are doing."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from networks.edsr import EDSR
from tests.conftest import ROOT, SAMPLE_SCORER, launch

pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import httpx

from tests.web.conftest import save_enhancer
from tests.web.test_app import picture


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A server of a tiny network."""
    net = EDSR(scale=2, num_blocks=1, num_features=8)
    file = save_enhancer(folder / "tiny.safetensors", net, 0.0)
    running = launch(
        folder, "serve", "port=0", f"checkpoint={file}", f"scorer.checkpoint={SAMPLE_SCORER}"
    )
    yield running
    running.kill()
    running.communicate()


@pytest.mark.slow
def test_a_script_can_end_it_in_the_background(folder: Path) -> None:
    """Shells have what a script puts there ignore Ctrl-C."""
    file = save_enhancer(folder / "tiny.safetensors", EDSR(2, num_blocks=1, num_features=8), 0.0)
    script = (
        f"{sys.executable} {ROOT / 'run.py'} serve port=0 checkpoint={file} "
        f"scorer.checkpoint={SAMPLE_SCORER} >said & server=$!; "
        "until grep -q ^http said; do kill -0 $server && sleep 0.2; done; "
        "kill -INT $server; wait $server"
    )
    done = subprocess.run(["bash", "-ec", script], cwd=folder, timeout=120)
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code", "last"),
    [
        ([signal.SIGINT], 0, "ended"),
        ([signal.SIGINT, signal.SIGINT], 0, "ended"),
        ([signal.SIGTERM], 143, "interrupted"),
        ([signal.SIGHUP, signal.SIGTERM], 129, "interrupted"),
    ],
)
def test_it_ends_in_order_while_clients_send_and_jobs_wait(
    folder: Path,
    process: subprocess.Popen[str],
    signals: list[signal.Signals],
    code: int,
    last: str,
) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[0].rpartition(":")[2])
    web = folder / "outputs" / "web"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        sent = [client.post("/uploads", content=picture(400, 400)).json()["id"] for _ in range(4)]
        for photo in sent[:3]:  # the fourth waits for a job
            assert client.post("/jobs", json={"photos": [photo]}).status_code == 201
        with socket.create_connection(("127.0.0.1", port)) as half:
            head = b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n"
            half.sendall(head + b"x" * 500)
            deadline = time.monotonic() + 20
            while not list((web / "uploads").glob("*.part")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.2)
            said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert said.split()[-1] == last
    assert not (web / "uploads").exists()
    states = {json.loads(path.read_text())["state"] for path in web.glob("*/result.json")}
    assert states <= {"done", "interrupted"}


@pytest.mark.slow
def test_a_client_that_takes_no_answer_does_not_hold_the_end_up(
    process: subprocess.Popen[str],
) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /examples/coffee.png HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.split() == ["ended"]
