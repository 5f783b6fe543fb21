"""The W&B workspace, as a file and saved to a server on this machine; W&B's own sweeps."""

import base64
import itertools
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, load_sweep_config
from wandb.wandb_agent import Agent

from cli import checks as config
from system.places import CONF
from tests.conftest import NIMA_WITH_PICTURES, ROOT, TINY, Cli, Finished
from tests.wandb_file import WandbRun, read_wandb

OFFLINE = ["logger=[csv,wandb]", "logger.wandb.offline=true"]
KEY = "k" * 40


def panels(view: dict[str, Any]) -> list[dict[str, Any]]:
    found = view["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in found for panel in section["panels"]]


def names(view: dict[str, Any]) -> set[str]:
    """What the workspace asks for: `history:`, `summary:` or `config:` and a name."""
    asked = set(view["spec"]["section"]["runSets"][0]["runFeed"]["columnPinned"])
    for panel in panels(view):
        content, kind = panel["config"], panel["viewType"]
        if kind in ("Run History Line Plot", "Media Browser"):
            keys = content.get("metrics") or content["mediaKeys"]
            asked |= {f"history:{key}" for key in keys}
        elif kind == "Bar Chart":
            asked |= {f"summary:{key}" for key in content["metrics"]}
        elif kind == "Scatter Plot":
            asked |= {content[axis] for axis in ("xAxis", "yAxis", "zAxis")}
        elif kind == "Parallel Coordinates Plot":
            asked |= {axis["accessor"] for axis in content["columns"]}
        elif kind == "Parameter Importance":
            asked.add(f"summary:{content['targetKey']}")
        elif kind == "Weave":
            asked.add("history:photos")
            assert '"val": "photos"' in json.dumps(panel)
        else:
            assert kind == "Markdown Panel"
        if kind == "Run History Line Plot":
            asked.add(f"history:{content['xAxis']}")
        asked |= set(content.get("legendFields", []))
        if "groupBy" in content:
            asked.add(f"config:{content['groupBy']}")
    return asked - {"run:displayName"}


def offered(run: WandbRun) -> Iterator[str]:
    """What a run has, as the app calls it: `.value` comes after a setting's first name."""
    # A picture is logged as several values: before_after/coffee._type, .path and so on.
    yield from (f"history:{key.partition('.')[0]}" for row in run.history for key in row)
    yield from (f"summary:{key}" for key in run.summary)

    def below(prefix: str, value: Any) -> Iterator[str]:  # noqa: ANN401
        yield prefix
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from below(f"{prefix}.{key}", inner)

    for key, value in run.config.items():
        yield from below(f"config:{key}.value", value)


@pytest.mark.slow
def test_every_name_in_it_is_one_that_a_run_has(
    cli: Cli, scorer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = cli("dashboard", "offline=true", "output=here.json", "photos=[chelsea]")
    assert done.code == 0, done.err
    asked = names(json.loads(Path("here.json").read_text()))
    assert {"summary:best/val/psnr", "config:gamma.value", "history:val/psnr"} <= asked
    assert "history:before_after/chelsea_x3" in asked
    pictures = ("callbacks.before_after=null", "callbacks.photo_table=null")
    tiny = [*(word for word in TINY if word not in pictures), "data.patch_size=64", *OFFLINE]
    scored = [f"scorer.checkpoint={scorer_file}", f"judge.checkpoint={scorer_file}"]
    edsr = [*scored, "model.grad_ratio_every=1", "gamma=0.4"]
    assert cli(*tiny, *edsr).code == 0
    assert cli(*tiny, "net=mdsr", "loss=[l1]", "gamma=0").code == 0
    assert cli(*NIMA_WITH_PICTURES, *OFFLINE).code == 0
    wandb.teardown()  # its service may still hold the end of the last file
    found = {name for path in Path().rglob("*.wandb") for name in offered(read_wandb(path))}
    assert asked <= found, asked - found


def test_only_the_runs_of_a_sweep(cli: Cli) -> None:
    assert cli("dashboard", "offline=true", "output=a.json", "group=gamma", "entity=us").code == 0
    view = json.loads(Path("a.json").read_text())
    logger = OmegaConf.load(CONF / "logger" / "wandb.yaml")
    assert (view["entity"], view["project"]) == ("us", logger.wandb.project)
    runs = view["spec"]["section"]["runSets"][0]
    conditions = {
        (f["key"]["section"], f["key"]["name"]): f["value"] for f in runs["filters"]["filters"]
    }
    assert conditions == {("run", "jobType"): "train", ("run", "group"): "gamma"}
    assert runs["sort"]["keys"] == [
        {"key": {"section": "summary", "name": "best/val/psnr"}, "ascending": False}
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output=a.yaml"], "output=a.yaml: must end in .json"),
        (["output=there.json"], "there.json exists: overwrite=true"),
        (["project="], "project=: must not be empty"),
        (['name="\U0001f600"'], "W&B allows no symbols in names, such as \U0001f600"),
        (['name="gamma > 0"'], "name=gamma > 0: W&B allows no symbols in names, such as >"),
        (["photos=chelsea"], "photos=chelsea: "),
        (["groups=gamma"], "groups: no such key in dashboard; did you mean group?"),
    ],
)
def test_mistakes(cli: Cli, words: list[str], message: str) -> None:
    Path("there.json").write_text("{}")
    done = cli("dashboard", "offline=true", *words)
    assert done.code == 2
    assert message in done.err
    assert [path.name for path in Path().iterdir()] == ["there.json"]


def test_without_the_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "reports.wandb_workspace", raising=False)
    done = cli("dashboard", "offline=true")
    assert done.code == 2
    assert "pip install 'wandb-workspaces>=" in done.err
    assert len(done.err.splitlines()) == 1


class Server(ThreadingHTTPServer):
    """As much of W&B's server as the workspace needs."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Knows one account and one project."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":
            self.send_error(404)
            return
        request = json.loads(body)
        assert isinstance(self.server, Server)
        self.server.requests.append(request)
        basic = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        if basic != f"api:{KEY}":
            self.send_error(401)
            return
        given = request.get("variables") or {}
        answer: dict[str, Any] = {"data": {"viewer": {"id": "1", "entity": "me", "flags": "{}"}}}
        if "upsertView" in request["query"]:
            view = {"id": "2", "name": given["name"]}
            answer = {"data": {"upsertView": {"view": view, "inserted": True}}}
            if given["projectName"] == "absent":
                answer = {"data": None, "errors": [{"message": "project not found"}]}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:  # noqa: ANN401
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Server]:
    """A server on this machine, without a key for it."""
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    yield running
    running.shutdown()
    running.server_close()


def dashboard(*words: str) -> Finished:
    """The command in a process of its own on a terminal, where W&B would ask for a key."""
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "dashboard", *words],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=100,
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
    except OSError:  # how a terminal's end shows
        pass
    os.close(controller)
    return Finished(done.returncode, done.stdout, shown.decode())


@pytest.mark.slow
def test_without_an_account_it_is_a_file(server: Server) -> None:
    done = dashboard()
    assert done.code == 0, done.err
    assert "not logged in" in done.out
    assert done.err == ""
    first = Path("outputs/dashboard.json").read_text()
    assert "outputs/dashboard.json exists" in dashboard().err
    assert Path("outputs/dashboard.json").read_text() == first
    assert dashboard("overwrite=true", "name=Other").code == 0
    assert json.loads(Path("outputs/dashboard.json").read_text())["displayName"] == "Other"
    assert server.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["environment", "netrc"])
def test_with_an_account_it_is_saved(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    else:
        line = f"machine 127.0.0.1:{server.server_port} login user password {KEY}\n"
        (folder / "netrc").write_text(line)
    done = dashboard("output=copy.json", "group=gamma")
    assert done.code == 0, done.err
    (sent,) = [r["variables"] for r in server.requests if "upsertView" in r["query"]]
    assert (sent["entityName"], sent["projectName"]) == ("me", "neural-image-enhancement")
    address = f"http://127.0.0.1:{server.server_port}/me/neural-image-enhancement?nw="
    assert done.out.startswith(address)
    copy = json.loads(Path("copy.json").read_text())
    assert json.loads(sent["spec"]) == copy["spec"]
    assert (copy["name"], copy["displayName"]) == (sent["name"], sent["displayName"])
    num = len(server.requests)
    assert dashboard("offline=true").code == 0
    assert len(server.requests) == num


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "words", "message"),
    [
        (KEY, ["project=absent"], "project not found"),
        ("x" * 40, [], "Failed to verify credentials"),
        ("short", [], "API key must have 40+ characters"),
    ],
)
def test_what_fails_is_said_in_a_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str, words: list[str], message: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    done = dashboard(*words, "output=copy.json")
    assert done.code == 2
    assert done.err.startswith("error: W&B: ")
    assert message in done.err
    assert "output=dashboard.json offline=true writes a file instead" in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("copy.json").exists()


def test_the_file_of_a_wandb_sweep_names_runs_that_work() -> None:
    """Every combination is a valid command line, and in the order of W&B's own expansion."""
    sweep = load_sweep_config(str(ROOT / "docs" / "wandb_sweep.yaml"))
    assert sweep is not None
    values = [
        [(name, value) for value in choice["values"]]
        for name, choice in sweep["parameters"].items()
    ]
    fixed = [word for word in sweep["command"][3:-1] if "$" not in word]
    grid = list(itertools.product(*values))
    assert len(grid) == 36
    for combination in grid[::5]:
        arguments = {name: {"value": value} for name, value in combination}
        expanded = create_sweep_command_args({"args": arguments})["args_no_hyphens"]
        config.check("train", [*fixed, *expanded], multirun=False)


@pytest.mark.slow
def test_an_agents_run_belongs_to_its_sweep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own agent starts a run as its server would ask for it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, value in {
        "WANDB_SWEEP_ID": "abc12345",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "OMP_NUM_THREADS": "1",
        "PATH": path,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them for good
        monkeypatch.setenv(name, "")
    sweep = load_sweep_config(str(ROOT / "docs" / "wandb_sweep.yaml"))
    assert sweep is not None
    agent = Agent(None, None, sweep_id="abc12345")
    agent._sweep_command = [*sweep["command"], *TINY]
    chosen = {"gamma": 0, "net": "edsr", "seed": 1}
    arguments = {name: {"value": value} for name, value in chosen.items()}
    command = {"run_id": "run00001", "program": str(ROOT / sweep["program"]), "args": arguments}
    agent._command_run(command)
    assert agent._run_processes["run00001"].wait() == 0
    (written,) = folder.rglob("*.wandb")
    run = read_wandb(written)
    assert (run.run.run_id, run.run.sweep_id) == ("run00001", "abc12345")
    assert run.run.run_group == "abc12345"
    (place,) = Path("outputs/wandb/abc12345/sample_edsr").iterdir()
    result = json.loads((place / "result.json").read_text())
    assert json.loads((place / "run.json").read_text())["run_id"] == "run00001"
    assert run.summary[sweep["metric"]["name"]] == pytest.approx(result["metrics"]["val/psnr"])
    assert run.config["choices"]["net"] == "edsr"
    assert run.config["choices"]["scale"] == "x2"
