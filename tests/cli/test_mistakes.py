"""One line for each mistake: nothing twice, nothing that follows from another, no traceback."""

from pathlib import Path

import pytest

from cli.mistakes import essential, shortened, sources, without_consequences
from tests.conftest import Cli

LONG = "x" * 5000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gamma=1e400", "gamma=inf: should be a finite number"),
        ("enhance input=. tile=abc", "tile=abc: should be a valid integer, or should be 'auto'"),
        ("enhance input=a.png scale=true", "scale=true: should be 1, 2, 3 or 4"),
        ("net.num_blocks=true", "net.num_blocks=true: should be a whole number"),
        ("optim.optimizer.lr='0.1'", "optim.optimizer.lr=0.1: is quoted text"),
        ("optim.optimizer._target_=[]", "optim.optimizer._target_=[]: must be the dotted"),
        ("resume=abc", "resume=abc: should be true or false"),
        ("paths.weights=abc", "paths.weights=abc: no such folder"),
        ("paths.root=1e400", "paths.root=1e400: no such folder"),
        ("score input=a.png paths.output_dir=null", "paths.output_dir: must be the name"),
        ("enhance input=a.png paths.output_dir=", "paths.output_dir: must be the name"),
        ("enhance input=a.png device=abc", "device=abc: auto, cpu, cuda, cuda:N or mps"),
        ("enhance input=a.png checkpoint=", "checkpoint=: is empty; a file is needed"),
        ("+gamma=1", "+gamma: already exists; gamma=... sets it"),
        ("evaluate ckpt_path=x", "ckpt_path: no such key in evaluate; did you mean checkpoint?"),
        ("enhance ~input", "~input: the command needs input"),
        ("prepare dataset=photos ~root", "~root: the command needs root"),
        (f"data={LONG}", "data=xxx"),
        (f"resume={LONG}", "resume=xxx"),
        ("stale=${nothing}", "stale: Interpolation key 'nothing' not found"),
        ("--help net=edsrr", "net=edsrr: no such net; did you mean edsr?"),
        ("--help gama=1", "gama: no such key in train; did you mean gamma?"),
        ("--help experiment=null", "experiment=null: choose one of"),
        ("--shell-completion", "--shell-completion: install=SHELL"),
        ("--cfg all --resolve", "--resolve needs --cfg job"),
    ],
)
def test_one_line(cli: Cli, folder: Path, line: str, message: str) -> None:
    (folder / "a.png").write_bytes(b"not read by the checks")
    done = cli(*line.split())
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")
    assert len(done.err.splitlines()) == 1
    assert len(done.err) < 400


def test_different_mistakes_are_all_named(cli: Cli) -> None:
    done = cli("gamma=1e400", "epochs=x", "gama=1", "seed=-1")
    assert done.err.startswith("error: 4 mistakes")
    done = cli("net.num_blocks=true", "optim.optimizer.lr=x")
    assert done.err.startswith("error: 2 mistakes")


def test_required_keys_are_named_beside_other_mistakes(cli: Cli) -> None:
    done = cli("evaluate", "gama=1", "scorer.checkpoint=absent")
    assert "checkpoint: is required" in done.err
    assert "gama: no such key" in done.err


def test_consequences_are_dropped() -> None:
    derived = {"model.net": "${net}", "output": "${paths.output_dir}/x", "net.scale": "${scale}"}
    assert sources("model.net.scale", derived) == ["net.scale", "scale"]
    found = ["scale=9: a", "model.net.scale=9: b", "scale=9: c", "output=y: d", "other: e"]
    assert essential(found, derived) == ["scale=9: a", "output=y: d", "other: e"]
    required = ["input: is required; give input=...", "imput: no such key; did you mean input?"]
    assert without_consequences(required) == required[1:]
    required[1] = "a.input=3: no file"
    assert without_consequences(required) == required
    assert shortened(f"a={LONG}: b") == f"a={'x' * 38}...{'x' * 14}: b"


@pytest.mark.parametrize("line", ["help", "help enhance", "enhance help", "-h", "-m gamma=0,1 -h"])
def test_help_is_given_however_it_is_asked_for(cli: Cli, line: str) -> None:
    done = cli(*line.split())
    assert done.code == 0
    assert "settings, with their values" in done.out


def test_version_is_that_of_the_project(cli: Cli) -> None:
    assert cli("--version").out.startswith("neural-image-enhancement 0.")


def test_resolved_configuration(cli: Cli) -> None:
    done = cli("--cfg", "job", "--resolve")
    assert done.code == 0
    assert "${" not in done.out


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("enhance photo.jpg scale=3", "enhance input=photo.jpg scale=3"),
        ("enhance photo.jpg --scale 3", "enhance input=photo.jpg scale=3"),
        ("photo.jpg scale=3", "enhance input=photo.jpg scale=3"),
        ("enhance pho*.jpg scale=3", "enhance input='pho*.jpg' scale=3"),
        ("export a.ckpt b.onnx format=onnx", "export checkpoint=a.ckpt output=b.onnx format=onnx"),
        ("score a.jpg b.csv rows=2", "score input=a.jpg output=b.csv rows=2"),
        ("prepare photos/ pack=true", "prepare dataset=photos root=photos/ pack=true"),
        ("serve 8080", "serve port=8080"),
        ("sample_nima epochs=1", None),
        ("train photo.jpg", None),
        ("dashboard x", None),
        ("interpolate a.ckpt", None),
        ("device=cpu", "trainer=cpu"),
        ("tensorboard=true", "logger=[csv,tensorboard]"),
        ("trainer.fast_dev_run=true", "debug=smoke"),
        ("sr_scale=3", "scale"),
        ("enhance in=a.png", "input"),
    ],
)
def test_hints(cli: Cli, line: str, meant: str | None) -> None:
    done = cli(*line.split())
    assert done.code == 2
    if meant is None:
        assert "did you mean" not in done.err
    else:
        assert done.err.endswith(f"did you mean {meant}?\n")
