"""A server of tiny networks, in this process and on a port of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lightning_modules.checkpoint import load_network, save_safetensors
from lightning_modules.record import Record
from networks.can import CAN
from networks.edsr import EDSR
from networks.mdsr import MDSR

pytest.importorskip("fastapi", reason="FastAPI is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import httpx

from web.api import Settings
from web.app import build_app
from web.connections import Server as Listening
from web.enhancers import load_enhancers
from web.guard import Guard
from web.jobs import Limits
from web.store import Store
from web.worker import Worker

UNFINISHED = ("waiting", "working")


class Server(NamedTuple):
    """A running server, its parts, and a client."""

    base: str
    store: Store
    worker: Worker
    client: httpx.Client
    app: Guard

    def upload(self, content: bytes, name: str = "photo.png") -> httpx.Response:
        """Sends a photo."""
        return self.client.post("/uploads", content=content, headers={"X-File-Name": name})

    def job(self, *contents: bytes, **wanted: Any) -> str:  # noqa: ANN401
        """Asks for photos to be enhanced; returns the token."""
        ids = [self.upload(content).json()["id"] for content in contents]
        request = {"task": "super-resolution", "scale": 2, "models": ["edsr-gamma-0"], **wanted}
        answer = self.client.post("/jobs", json={"photos": ids, **request})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def result(self, token: str) -> dict[str, Any]:
        """What is known of a job."""
        answer = self.client.get(f"/results/{token}/result.json")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def finished(self, token: str) -> dict[str, Any]:
        """The same when it is finished."""
        deadline = time.monotonic() + 120
        while (found := self.result(token))["state"] in UNFINISHED:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


def save_enhancer(path: Path, net: torch.nn.Module, gamma: float, blur: float = 0.0) -> str:
    """Writes a network without training."""
    arguments = {
        EDSR: {"scale": getattr(net, "scale", 0), "num_blocks": 1, "num_features": 8},
        MDSR: {"num_blocks": 1, "num_features": 8},
        CAN: {"scale": 1, "num_layers": 3, "num_features": 8},
    }[type(net)]
    record = Record(
        kind="enhancer",
        net={"_target_": f"{type(net).__module__}.{type(net).__name__}", **arguments},
        data="nothing",
        gamma=gamma,
        degradation={"blur": blur, "noise": 0, "jpeg": None},
    )
    save_safetensors(path, net, record)
    return str(path)


@pytest.fixture(scope="session")
def enhancers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files: EDSR x2 with gamma 0 and 0.4, MDSR, and a CAN that deblurs."""
    folder = tmp_path_factory.mktemp("enhancers")
    torch.manual_seed(0)
    edsr = {"scale": 2, "num_blocks": 1, "num_features": 8}
    return {
        "edsr_0": save_enhancer(folder / "edsr_0.safetensors", EDSR(**edsr), 0.0),
        "edsr_0.4": save_enhancer(folder / "edsr_0.4.safetensors", EDSR(**edsr), 0.4),
        "mdsr": save_enhancer(folder / "mdsr.safetensors", MDSR(num_blocks=1, num_features=8), 0.1),
        "can": save_enhancer(
            folder / "can.safetensors", CAN(scale=1, num_layers=3, num_features=8), 0.0, blur=1.6
        ),
    }


Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def serve(enhancers: dict[str, str], scorer_file: Path) -> Serve:
    """A context in which a server runs, of a folder and options."""

    @contextmanager
    def start(
        folder: Path,
        *,
        host: str = "127.0.0.1",
        login: tuple[str, str] | None = None,
        max_disk: float = 1e9,
        keep_hours: float = 1,
        tile: int = 64,
        checkpoints: list[str] | None = None,
        **limits: Any,  # noqa: ANN401
    ) -> Iterator[Server]:
        files = enhancers
        cpu = torch.device("cpu")
        pairs = [] if checkpoints else [[files["edsr_0"], files["edsr_0.4"]]]
        networks = load_enhancers(checkpoints or list(files.values()), pairs, 3, cpu)
        scorer, record = load_network(scorer_file, kind="scorer")
        store = Store(folder, max_bytes=max_disk, keep_seconds=keep_hours * 3600)
        defaults = {"photos": 4, "bytes": 2_000_000, "megapixels": 1.0, "waiting": 50}
        worker = Worker(
            store,
            networks,
            scorer,  # type: ignore[arg-type]
            record,
            device=cpu,
            tile=tile,
            limits=Limits(**{**defaults, **limits}),
        )
        app = build_app(store, worker, Settings("Test page", host, login, ("photos.example.org",)))
        started = threading.Event()
        server = Listening(app, host, 0, started.set)
        thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
        thread.start()
        assert started.wait(60)
        base = f"http://127.0.0.1:{server.port}"
        try:
            with httpx.Client(base_url=base, timeout=60, auth=login) as client:
                yield Server(base, store, worker, client, app)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()

    return start


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share."""
    with serve(tmp_path_factory.mktemp("web") / "store") as running:
        yield running
