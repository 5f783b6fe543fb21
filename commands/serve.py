"""python run.py serve: the web page to upload, enhance, rate and compare photos."""

import errno
import importlib.util
import logging
import signal
import socket
from collections.abc import Iterator

from omegaconf import DictConfig, ListConfig
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from runs.invocation import Invocation
from runs.requirements import require_file, require_folder
from system.device import keep_memory, pick_device
from system.locks import locked
from system.places import expanded
from web.hosts import is_loopback, is_name
from web.store import UPLOAD_SHARE, Store, is_ours

log = logging.getLogger(__name__)

TITLE = "Neural Image Enhancement"


class Scorer(BaseModel, strict=True):
    """Keys of the node `scorer`."""

    checkpoint: str


class Options(BaseModel, strict=True):
    """Keys of conf/serve.yaml."""

    checkpoint: str | list[str]
    pairs: list[list[str]]
    steps: int = Field(ge=2, le=21)
    scorer: Scorer
    host: str = Field(min_length=1)
    port: int = Field(ge=0, le=65535)
    hosts: list[str]
    user: str | None = Field(min_length=1)
    password: str | None
    output: str = Field(min_length=1)
    keep_hours: float = Field(gt=0, le=87_600)  # ten years
    max_disk_gb: PositiveFloat
    max_megapixels: PositiveFloat | None
    max_mb: float = Field(ge=0.01)
    max_photos: int = Field(ge=1, le=100)
    max_waiting: PositiveInt
    tile: int = Field(ge=16)
    trusted: list[str]
    device: str


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    for path in checkpoints(cfg):
        yield from require_file("checkpoint", path)
    for pair in cfg.pairs:
        if isinstance(pair, str):  # the inner brackets are missing, which `Options` says
            continue
        if len(pair) != 2:
            yield f"pairs={list(pair)}: needs two files each, [[gamma0.ckpt,gamma04.ckpt]]"
        for path in pair:
            yield from require_file("pairs", path)
    if not checkpoints(cfg) and not cfg.pairs:
        yield "checkpoint=[]: give one or more files, or pairs="
    yield from require_file("scorer.checkpoint", cfg.scorer.checkpoint)
    yield from require_folder("output", cfg.output)
    folder = expanded(cfg.output)
    if folder.is_dir() and not is_ours(folder):
        yield f"output={cfg.output}: contains other files; serve needs a folder to itself"
    if cfg.user is not None and not cfg.password:
        yield "user=: needs password=, or SERVE_PASSWORD in the environment"
    if cfg.user is None and cfg.password:
        yield "password=: needs user="
    if cfg.user is not None and ":" in cfg.user:
        yield f"user={cfg.user}: must not contain a colon"
    for name in cfg.hosts if isinstance(cfg.hosts, ListConfig) else []:
        if not isinstance(name, str) or not is_name(name):
            yield f"hosts: {name}: must be a name or address without port: photos.example.org"
    if isinstance(cfg.max_mb, int | float) and isinstance(cfg.max_disk_gb, int | float):
        room = cfg.max_disk_gb * 1e3 * UPLOAD_SHARE
        if cfg.max_mb > room:
            yield f"max_mb={cfg.max_mb:g}: at most {room:g}; uploads get a quarter of max_disk_gb"
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            yield f"serve needs {package}: pip install '.[demo]'"
    if cfg.host and isinstance(cfg.port, int) and 0 <= cfg.port <= 65535:
        yield from check_address(cfg.host, cfg.port)


def check_address(host: str, port: int) -> Iterator[str]:
    """Check that the server can bind to an address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        hint = "; port=0 picks a free one" if error.errno == errno.EADDRINUSE else ""
        yield f"host={host} port={port}: cannot bind to this address ({error.strerror}{hint})"


def checkpoints(cfg: DictConfig) -> list[str]:
    """Return the checkpoints of enhancers."""
    return [cfg.checkpoint] if isinstance(cfg.checkpoint, str) else list(cfg.checkpoint)


def run(cfg: DictConfig, _: Invocation) -> None:
    """Serve until Ctrl-C."""
    from lightning_modules.checkpoint import load_network
    from networks.nima import NIMA
    from web.api import Settings  # needs the extra `demo`
    from web.app import build_app
    from web.connections import Server
    from web.enhancers import load_enhancers
    from web.jobs import Limits
    from web.worker import Worker

    keep_memory()
    device = pick_device(cfg.device)
    pairs = [list(pair) for pair in cfg.pairs]
    enhancers = load_enhancers(checkpoints(cfg), pairs, cfg.steps, device, cfg.trusted)
    scorer, record = load_network(cfg.scorer.checkpoint, "scorer", cfg.trusted)
    assert isinstance(scorer, NIMA)
    folder = expanded(cfg.output)
    with locked(folder):
        store = Store(folder, max_bytes=cfg.max_disk_gb * 1e9, keep_seconds=cfg.keep_hours * 3600)
        limits = Limits(
            photos=cfg.max_photos,
            bytes=int(cfg.max_mb * 1e6),
            megapixels=cfg.max_megapixels or (4 if device.type == "cpu" else 16),
            waiting=cfg.max_waiting,
        )
        worker = Worker(
            store, enhancers, scorer, record, device=device, tile=cfg.tile, limits=limits
        )
        login = (cfg.user, cfg.password) if cfg.user is not None else None
        hosts = tuple(name.lower() for name in cfg.hosts)
        app = build_app(store, worker, Settings(TITLE, cfg.host, login, hosts))

        def started() -> None:
            host = socket.gethostname() if cfg.host in ("0.0.0.0", "::") else cfg.host
            shown = f"[{host}]" if ":" in host else host
            where = f"http://{shown}:{server.port}"
            log.info("%s  (press Ctrl-C to stop; results are kept in %s)", where, folder)

        server = Server(app, cfg.host, cfg.port, started)
        if not is_loopback(cfg.host):
            who = "with the password" if login else "WITHOUT A PASSWORD (set user= and password=)"
            log.warning("host=%s: other machines can reach this page, %s", cfg.host, who)
        try:
            server.serve_until_stopped()
        except KeyboardInterrupt:
            if server.signal != signal.SIGINT:
                raise
            log.info("ended")  # Ctrl-C is how it ends
        finally:
            store.remove_uploads()
