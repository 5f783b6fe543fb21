"""What a user may have meant: the key that other projects call by another name, or no hint."""

from pathlib import Path

import pytest

from cli import command_line as command_line
from configuration.hints import near
from tests.conftest import Cli


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("lr=0.1", "optim.optimizer.lr?"),
        ("ckpt_path=a.ckpt", "init_from?"),
        ("pretrained=a.ckpt", "init_from?"),
        ("device=cuda", "trainer=gpu?"),
        ("data.train_hr=a", "data.train_hr: no such key in train; it belongs to data=photos"),
        ("optim.lr=1e-3", "optim.optimizer.lr?"),
        ("trainer.val_check_interval=0.5", "+trainer.val_check_interval=0.5 adds it"),
        ("check_val_every_n_epoch=2", "+trainer.check_val_every_n_epoch=2 adds it"),
        ("train_hr=a", "data.train_hr, which belongs to data=photos?"),
        ("net.kernel_sizes=[9]", "; it belongs to net=srcnn"),
        ("batch_size=4", "data.batch_size?"),
        ("gpus=2", "trainer.devices?"),
        ("devices=2", "trainer.devices?"),
        ("precision=16", "trainer.precision?"),
        ("max_epochs=3", "did you mean epochs?"),
        ("num_epochs=3", "did you mean epochs?"),
        ("criterion=l1", "did you mean loss?"),
        ("loss=l3", "no such loss; allowed are"),
        ("model.loss.mode=hinge", "loss.aesthetic.mode?"),
        ("loss.sigma=1", "no such key"),
        ("loss.color.sigma=1", "belongs to loss=[color,...]"),
        ("patch_size=48", "data.patch_size?"),
        ("upscale=3", "did you mean scale?"),
        ("factor=3", "did you mean scale?"),
        ("model=edsr", "net=edsr?"),
        ("train.gamma=0.1", "did you mean gamma?"),
        ("gama=0.1", "did you mean gamma?"),
        ("data.bach_size=1", "data.batch_size?"),
        ("--gamma 0.1", "colons: gamma=0.1"),
        ("--gamma=0.1", "colons: gamma=0.1"),
        ("-gamma=0.1", "colons: gamma=0.1"),
        ("gamma = 0.1", "colons: gamma=0.1"),
        ("gamma= 0.1", "colons: gamma=0.1"),
        ("gamma =0.1", "colons: gamma=0.1"),
        ("train gamma:0.1", "colons: gamma=0.1"),
        ("gamma 0.1", "KEY=VALUE: gamma=0.1"),
        ("--lr 0.1", "optim.optimizer.lr=0.1"),
        ("enhance photo.jpg", "enhance input=photo.jpg?"),
        ("score a.jpg b.jpg", "score input="),
        ("evaluate best.ckpt", "evaluate checkpoint=best.ckpt?"),
    ],
)
def test_what_is_meant(cli: Cli, line: str, meant: str) -> None:
    done = cli(*line.split())
    assert done.code == 2
    assert meant in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    "word", ["banana", "foo", "x", "wheel", "monday", "temperature", "banana.gamma", "data.banana"]
)
def test_no_hint_rather_than_a_wrong_one(cli: Cli, word: str) -> None:
    done = cli(f"{word}=1")
    assert done.err == f"error: {word}: no such key in train\n"


def test_near_is_a_slip_and_only_one_name() -> None:
    names = ["gamma", "scale", "seed", "epochs", "edsr", "mdsr", "trainer.devices"]
    assert near("esdr", names) == "edsr"
    assert near("epoch", names) == "epochs"
    assert near("trainer.divices", names) == "trainer.devices"
    assert near("dsr", names) is None
    assert near("xdsr", names) is None  # as near to one as to the other
    assert near("speed", names) is None or near("speed", names) == "seed"
    assert near("loss", names) is None


def test_own_photos_run_as_their_own_experiment(folder: Path) -> None:
    own = ["data=photos", "data.train_hr=a", "data.val_hr=b"]
    assert command_line.parse(own).overrides == ["experiment=photos", *own]
    assert command_line.parse(["experiment=div2k_edsr", *own]).overrides[0] != "experiment=photos"
    assert command_line.parse(["evaluate", "checkpoint=a", *own[:1]]).overrides[0] == "checkpoint=a"


def test_help_shows_the_values_in_use(cli: Cli) -> None:
    out = cli("--help").out
    for line in ("net: edsr_tiny ", "scorer: mnasnet_1_0 ", "optim: adam_cosine "):
        assert f"  - {line}" in out
    assert "\ngamma: 0.4 " in out
    assert "  scorer.checkpoint=${paths.weights}/nima_ava_distilled.safetensors" in out
    out = cli("experiment=div2k_deblur_x1", "--help").out
    assert "\nscale: 1 " in out
    assert "  data.degradation.blur=1.6" in out
    assert "\nepochs: 3 " in cli("train", "epochs=3", "--help").out
