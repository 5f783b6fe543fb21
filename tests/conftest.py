"""Shared by all tests: small settings, a scorer without training, and the command line."""

import copy
import ctypes
import functools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import lightning as L
import omegaconf
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, grammar_parser

import run as entry
from lightning_modules.checkpoint import save_safetensors
from lightning_modules.record import Record
from networks.edsr import EDSR
from networks.nima import NIMA
from sweeps.pool import free_port

ROOT = Path(__file__).resolve().parent.parent
# Photos that the repository does not hold; tests that need them are skipped without PHOTO_DATA.
PHOTOS = Path(os.environ.get("PHOTO_DATA") or os.devnull)

# Knows synthetic ratings, 1 to 10: experiment=sample_nima data.num_train=1920 epochs=12.
SAMPLE_SCORER = ROOT / "tests" / "nima_sample.safetensors"
SHIPPED_SCORER = ROOT / "weights" / "nima_ava_distilled.safetensors"  # by default
# Seconds instead of minutes: four steps of two epochs on two photos.
TINY = [
    "scorer=mnasnet_0_5",
    f"scorer.checkpoint={SAMPLE_SCORER}",
    "net.num_blocks=1",
    "net.num_features=8",
    "data.limit=2",
    "data.patch_size=16",
    "data.num_steps=2",
    "data.batch_size=4",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    "callbacks.before_after=null",
    "callbacks.photo_table=null",
    "epochs=2",
]
WITH_PICTURES = [
    word
    for word in TINY
    if word not in ("callbacks.before_after=null", "callbacks.photo_table=null")
]
NIMA_WITH_PICTURES = [
    "experiment=sample_nima",
    "data.num_train=8",
    "data.num_val=4",
    "data.batch_size=4",
    "scorer.resize=64",
    "scorer.crop=64",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    "callbacks.pictures.num_photos=2",
    "epochs=2",
]
# Matplotlib takes longer over the pictures than the training.
TINY_NIMA = [word for word in NIMA_WITH_PICTURES if "pictures" not in word]
TINY_NIMA.append("callbacks.pictures=null")


class Finished(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str


LONG_FIRST = ("sweeps", "runs", "commands")
# Otherwise torch.compile starts processes that import PyTorch, too.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

Cli = Callable[..., Finished]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is alone with it in the end."""
    order = {ROOT / "tests" / name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: order.get(item.path.parent, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _configuration_files() -> Iterator[None]:
    """Parse a configuration file and an interpolation once: Hydra does so for every composition."""
    read = OmegaConf.load
    known: dict[tuple[str, int, int], Any] = {}

    def load(file: str | Path | IO[Any]) -> Any:  # noqa: ANN401
        if isinstance(file, str | Path):
            return read(file)
        about = os.fstat(file.fileno())
        key = (file.name, about.st_mtime_ns, about.st_size)
        if key not in known:
            known[key] = read(file)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        for module in (omegaconf.base, omegaconf._utils):
            patch.setattr(module, "parse", functools.lru_cache(maxsize=None)(grammar_parser.parse))
        yield


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    """Runs a command line in this process, in an empty folder."""

    def call(*arguments: str) -> Finished:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["run.py"])
        GlobalHydra.instance().clear()
        try:
            code = entry.main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    yield call
    for handler in list(logging.getLogger().handlers):  # the folder of its file will be gone
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


def quiet_trainer(**options: Any) -> L.Trainer:  # noqa: ANN401
    """A trainer on the CPU that writes and prints nothing."""
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def shallow(scorer: NIMA, num_layers: int) -> NIMA:
    """The first layers of a scorer, for what takes too long with all of them."""
    scorer.features = torch.nn.Sequential(*list(scorer.features.children())[:num_layers])
    num_features = scorer.eval().pooled_features(torch.zeros(1, 3, 64, 64)).shape[1]
    torch.manual_seed(0)
    scorer.head = torch.nn.Linear(num_features, scorer.num_buckets)
    return scorer


def launch(
    folder: Path,
    *arguments: str,
    cold: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[str]:
    """Starts a command line in a process of its own.

    Args:
        folder: its working directory.
        arguments: of the command line.
        cold: whether it is a new interpreter, rather than the fork of one that has imported
            PyTorch and Lightning, for which others take 4 s.
        environment: variables to be added.
    """
    kind = subprocess.Popen if cold or sys.platform != "linux" else Forked
    return kind(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | dict(environment),
        preexec_fn=heed_signals,
    )


def two_ranks(folder: Path, *arguments: str, num_nodes: int = 1) -> list[Finished]:
    """Runs a training as two ranks, with the variables by which torchrun tells them.

    Without them, Lightning starts the second rank, as a new interpreter: the tests of sweeps and
    a few of trainings have it so.
    """
    port = str(free_port())
    ranks = []
    for rank in range(2):
        node, local = divmod(rank, 2 // num_nodes)
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "tests",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": str(2 // num_nodes),
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "GROUP_RANK": str(node),
        }
        ranks.append(launch(folder, *arguments, "trainer=ddp_cpu", environment=variables))
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    return [Finished(r.returncode, text, "") for r, text in zip(ranks, outputs, strict=True)]


def run_two_ranks(folder: Path, *arguments: str) -> None:
    """Runs a training as two ranks to its end."""
    done = two_ranks(folder, *arguments)
    assert [rank.code for rank in done] == [0, 0], done


class Forked(subprocess.Popen[str]):
    """`python` with a script or a module, whose process `preloaded_run` starts."""

    def _execute_child(self, args: list[str], *options: Any) -> None:  # noqa: ANN401
        """Does what `subprocess` does by fork and exec."""
        folder, environment = options[4:6]
        pipes = options[9:15]
        order = {
            "arguments": args[1:],
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
        }
        control = preloaded()
        adopt_orphans(True)  # of which the command is one: it becomes a child of this process
        output = pipes[3] if pipes[3] >= 0 else 1  # of this process
        socket.send_fds(control, [json.dumps(order).encode()], [output])
        self.pid = int(control.recv(20))
        adopt_orphans(False)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def adopt_orphans(wanted: bool) -> None:
    """Sets whether orphans among the descendants of this process become its children."""
    child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
    assert ctypes.CDLL(None).prctl(child_subreaper, int(wanted), 0, 0, 0) == 0


@functools.cache
def preloaded() -> socket.socket:
    """Starts `preloaded_run`, and returns the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = ROOT / "tests" / "preloaded_run.py"
    subprocess.Popen(
        [sys.executable, str(script), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    theirs.close()
    return ours


def heed_signals() -> None:
    """Undoes what a shell does to tests in the background, and nohup: they ignore signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Sends SIGKILL as soon as the condition holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def scorer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained scorer of 64-pixel crops."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "backbone": "mnasnet_0_5",
        "num_buckets": 10,
        "resize": 64,
        "crop": 64,
    }
    scorer = NIMA(**arguments)
    path = tmp_path_factory.mktemp("scorer") / "scorer.safetensors"
    spec = {"_target_": "networks.nima.NIMA", **arguments}
    record = Record(kind="scorer", net=spec, data="nothing", gamma=None, epoch=0)
    save_safetensors(path, scorer, record)
    return path


@pytest.fixture(scope="session")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained EDSR x2 of one block."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("enhancer") / "edsr.safetensors"
    spec = {"_target_": "networks.edsr.EDSR", "scale": 2, "num_blocks": 1, "num_features": 4}
    record = Record(kind="enhancer", net=spec, data="nothing", gamma=0.0)
    save_safetensors(path, EDSR(2, num_blocks=1, num_features=4), record)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, separate from that of temporary files."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk can only be mounted as root on Linux")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else next(filter(None, map(shutil.which, names)), None)
        if path is None:
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        # Chromium's sandbox refuses to run as root.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
