"""Commands end on signals with one line, the right exit code and a whole checkpoint."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules.checkpoint_io import read_whole
from system.stopping import InterruptHandler
from tests.conftest import ROOT, TINY, Finished, launch

Cli = Callable[..., Finished]
FAREWELL = "interrupted; the same command resumes after the last full epoch"


def after_an_epoch(process: subprocess.Popen[str], folder: Path) -> Path:
    """Waits for the first last.ckpt."""
    deadline = time.monotonic() + 120
    while not (found := list(folder.rglob("last.ckpt"))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "words"),
    [
        ([signal.SIGINT, signal.SIGINT], []),
        ([signal.SIGTERM], ["data.num_workers=1"]),
        ([signal.SIGHUP, signal.SIGINT, signal.SIGTERM], []),
        ([signal.SIGTERM], ["trainer=ddp_cpu"]),
    ],
)
def test_a_training_reports_the_interruption_once(
    folder: Path, signals: list[signal.Signals], words: list[str]
) -> None:
    process = launch(folder, *TINY, "gamma=0", "epochs=5000", *words)
    last = after_an_epoch(process, folder)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signals[0], output
    assert output.count("interrupted") == output.count(FAREWELL) == 1
    assert "Traceback" not in output
    assert "Error" not in output
    assert read_whole(last)["record"]["epoch"] >= 0
    assert not list(folder.rglob("*.part"))
    assert all(is_dead(int(pid)) for pid in children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_has_not_begun_yet(folder: Path, number: signal.Signals) -> None:
    """While modules are imported and settings are checked."""
    process = launch(folder, *TINY, "gamma=0", cold=True)
    status = Path(f"/proc/{process.pid}/status")
    while True:
        mask = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(mask.split()[1], 16) >> (signal.SIGHUP - 1) & 1:
            break
        time.sleep(0.005)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert output == "\ninterrupted\n"


def test_what_is_ignored_stays_ignored() -> None:
    code = (
        "import os, signal; from system.stopping import InterruptHandler\n\n"
        "with InterruptHandler() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(stop.number)\n"
    )
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    done = subprocess.run(
        [sys.executable, "-c", ignore + code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_the_first_signal_counts(capsys: pytest.CaptureFixture[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = InterruptHandler()
    try:
        with stop:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)  # ignored: the command tidies up
            stop.report("really")
            stop.report()
        os.kill(os.getpid(), signal.SIGINT)  # as the interpreter ends
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert stop.code == 143
    assert capsys.readouterr().err == "\ninterrupted; really\n"


ENDINGS = """
import atexit, os, sys
from system.stopping import FastExit
ending = FastExit()
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 15)
late = Late()
atexit.register(print, "tidied up")
with ending:
    print("done")
"""


@pytest.mark.parametrize(
    ("last", "code"),
    [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('why')", 1), ("1 / 0", 1), ("pass", 0)],
)
def test_a_signal_after_the_end_changes_nothing(last: str, code: int) -> None:
    """The interpreter would need a second to take PyTorch apart, with the result on the screen."""
    command = [sys.executable, "-c", f"{ENDINGS}    {last}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (code, "done\ntidied up\n"), done.stderr
    assert done.stderr.strip().rpartition("\n")[2] == {
        "sys.exit('why')": "why",
        "1 / 0": "ZeroDivisionError: division by zero",
    }.get(last, "")


@pytest.mark.slow
def test_help_whose_reader_has_seen_enough(folder: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_forked_worker_ends_as_without_us() -> None:
    with InterruptHandler():
        pid = os.fork()
        if not pid:
            time.sleep(60)
            os._exit(0)
        time.sleep(0.2)  # Python forgets signals that come while it forks
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
