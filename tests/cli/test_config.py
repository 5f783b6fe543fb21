"""Every YAML composes and instantiates; every mistake gives one clear message."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cli import command_line as command_line
from cli.checks import check
from cli.overrides import as_text
from configuration.signatures import Text
from networks.scales import scales_of
from system.places import CONF
from tests.conftest import ROOT, SAMPLE_SCORER, Cli
from tests.fake_weights import fill_cache

SHIPPED = ROOT / "weights" / "edsr_x2_gamma_0.safetensors"


def group_files(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))


def test_every_group_is_tested_here() -> None:
    tested = {"model", "data", "net", "loss", "scorer", "optim", "trainer", "logger", "callbacks"}
    tested |= {"experiment", "debug", "sweep"}  # the last in test_sweep
    assert {p.name for p in CONF.iterdir() if p.is_dir()} == tested | {"hydra", "paths"}
    assert {p.stem for p in CONF.glob("*.yaml")} == set(command_line.COMMANDS)


@pytest.mark.parametrize("net", group_files("net"))
def test_nets(net: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        built = instantiate(compose("train", [f"net={net}", *NEEDS.get(net, [])]).net)
    scales = {"mdsr": [2, 3, 4], "mdsr_full": [2, 3, 4], "curves": [1]}
    assert scales_of(built) == scales.get(net, [2])


@pytest.mark.parametrize("scorer", group_files("scorer"))
def test_scorers(scorer: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["experiment=sample_nima", f"scorer={scorer}", *NEEDS.get(scorer, [])]
        node = compose("train", words).scorer
    del node.checkpoint
    assert instantiate(node).backbone == ("test_convnext" if scorer == "timm" else scorer)


@pytest.mark.parametrize("loss", group_files("loss"))
def test_terms(loss: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"loss=[{loss}]", "gamma=0.3", f"scorer.checkpoint={SAMPLE_SCORER}"]
        if loss in ("lpips", "dists"):  # random weights: the real ones need a download
            words += [f"loss.{loss}.weights={fill_cache(tmp_path, 'vgg', whole=False)}"]
        terms = compose("train", words).model.loss
    sum_ = instantiate(terms)
    assert sum_.names == [loss]
    assert sum_(torch.rand(1, 3, 192, 192), torch.rand(1, 3, 192, 192)).total > 0


# What a file leaves to the user, or what needs a download.
NEEDS = {
    "curves": ["scale=1"],
    "timm": ["scorer.backbone=test_convnext"],
    "div2k_edsr": ["gamma=0"],
    "div2k_deblur": ["gamma=0"],
    "div2k_deblur_x1": ["gamma=0"],
    "nima_mnasnet": ["scorer.pretrained=null"],
    "nima_finetune": ["scorer.pretrained=null"],
    "nima_robust": ["scorer.pretrained=null"],
    "photos": ["data.train_hr=photos", "data.val_hr=photos"],
    "photos_tone": ["data.train_hr=photos", "data.val_hr=photos"],
    "benchmark": ["data.root=Set5"],
    "rated": ["data.ratings=ratings.csv", "data.images=photos"],
    "tables": ["data.tables=[{ratings: ratings.csv, images: photos}]"],
}


@pytest.mark.parametrize(
    ("experiment", "debug"),
    [
        *((experiment, []) for experiment in group_files("experiment")),
        *itertools.product(
            ("sample_edsr", "sample_nima"), [[f"debug={name}"] for name in group_files("debug")]
        ),
    ],
)
def test_experiments(experiment: str, debug: list[str]) -> None:
    words = [f"experiment={experiment}", *debug, *NEEDS.get(experiment, [])]
    check("train", words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", words)
    cfg.paths.run_dir = "nowhere"
    spec = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(spec, dict)
    spec["net"].pop("checkpoint", None)
    instantiate(spec)
    instantiate(cfg.data)
    assert [instantiate(c) for c in cfg.callbacks.values()]


@pytest.mark.parametrize("data", group_files("data"))
def test_data(data: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"data={data}", *NEEDS.get(data, [])])
    assert instantiate(cfg.data).description


@pytest.mark.parametrize("optim", group_files("optim"))
def test_optimizers(optim: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"optim={optim}"])
    assert 0 <= instantiate(cfg.optim.schedule)(1.0) <= instantiate(cfg.optim.schedule)(0.1) <= 1


@pytest.mark.parametrize("trainer", group_files("trainer"))
def test_trainers(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if trainer == "slurm":  # as in a job of one task
        for name in ("NTASKS", "NTASKS_PER_NODE", "NNODES", "JOB_ID"):
            monkeypatch.setenv(f"SLURM_{name}", "1")
        for name in ("PROCID", "LOCALID", "NODEID"):
            monkeypatch.setenv(f"SLURM_{name}", "0")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"trainer={trainer}", "callbacks=enhancement"])
    cfg.trainer.accelerator = "cpu"  # what has a GPU in it composes; it runs where there is one
    cfg.trainer.devices = 1
    instantiate(cfg.trainer, logger=False)


@pytest.mark.parametrize("logger", group_files("logger"))
def test_loggers(logger: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"logger={logger}", f"paths.run_dir={tmp_path}"])
    for node in cfg.logger.values():
        assert node is None or instantiate(node, _partial_=True)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: p.name)
def test_package_line_comes_first(path: Path) -> None:
    lines = path.read_text().splitlines()
    where = [i for i, line in enumerate(lines) if "@package" in line]
    assert where in ([], [0])  # Hydra ignores it below another comment
    assert (where == [0]) == (path.parent.name in ("experiment", "debug", "sweep", "loss"))


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["gama=0.1"], ["gama: no such key in train; did you mean gamma?"]),
        (["net.num_block=3"], ["net.num_block: no such key", "net.num_blocks?"]),
        (["net=esdr"], ["net=esdr: no such net; did you mean edsr?"]),
        (["epochs=many"], ["epochs=many: should be a valid integer"]),
        (["net.num_blocks=2.5"], ["net.num_blocks=2.5: should be a valid integer"]),
        (["optim.optimizer.lr=fast"], ["optim.optimizer.lr=fast: should be a valid number"]),
        (["+net.depth=3"], ["net.depth: EDSR has no such argument"]),
        (["gamma=-0.1"], ["gamma=-0.1: should be greater than or equal to 0"]),
        (["gamma=inf"], ["gamma=inf: "]),
        (["gamma=null"], ["gamma=None scale=2: an enhancer needs both"]),
        (["optim.optimizer.lr=nan"], ["optim.optimizer.lr=nan: must be finite"]),
        (["+gama=1"], ["gama: no such key in train"]),
        (["net=null"], ["net=null: choose one of"]),
        (["name=a/b"], ["name=a/b: letters"]),
        (["name="], ["name=: letters"]),
        (["paths.output_dir=null"], ["paths.output_dir: must be"]),
        (["paths.output_dir=/dev/null/runs"], ["/dev/null is a file; a folder is needed"]),
        (["trainer.accumulate_grad_batches=0"], ["1 or more each"]),
        (["trainer.devices=0"], ["1 or more each"]),
        (["trainer.max_epochs=3"], ["set epochs=3"]),
        (["trainer.limit_val_batches=0"], ["trainer.limit_val_batches=0"]),
        (["callbacks.checkpoint=null"], ["callbacks.checkpoint=null"]),
        (["data.patch_size=0"], ["data.patch_size=0"]),
        (["data.limit=0"], ["data.limit=0"]),
        (["optim.optimizer.lr=-1"], ["Invalid learning rate"]),
        (["resume=true"], ["there is no run in"]),
        (["-m", "name=x", "gamma=0,1"], ["would share one folder"]),
        (["scale=5"], ["scale=5: should be 1, 2, 3 or 4"]),
        (["scorer.checkpoint=absent.ckpt"], ["scorer.checkpoint=absent.ckpt: no such file"]),
        (["init_from=absent.pt"], ["init_from=absent.pt: no such file"]),
        (["init_from=."], ["init_from=.: is a folder without checkpoints/best.ckpt"]),
        (["scorer.checkpoint=null"], ["gamma=0.4 needs a scorer"]),
        (["scorer=mobilenet_v2"], ["a mnasnet_1_0, but scorer=mobilenet_v2 was asked for"]),
        (["scorer.num_buckets=5"], ["scorer.num_buckets=5: ", "has 10; leave scorer.num_buckets="]),
        (["net=bicubic"], ["nothing to train"]),
        (["judge.checkpoint=a.ckpt"], ["judge.checkpoint=a.ckpt: no such file"]),
        (
            ["loss.aesthetic.mode=hing"],
            ["loss.aesthetic.mode=hing: should be 'linear', 'hinge' or"],
        ),
        (["-m", "loss=[l1],[l2,l3]", "gamma=0"], ["loss=l3: no such loss"]),
        (["loss=[l1,l3]"], ["loss=l3: no such loss"]),
        (["data=sample_rated"], ["data: SampleRated does not give LR/HR pairs"]),
        (["data.batch_size=9", "trainer=ddp_cpu"], ["must be divisible by 2"]),
        (["gamma==1"], ["'gamma==1' cannot be parsed"]),
        (["gamma"], ["unknown command 'gamma'"]),
        (["gama=1", "epochs=x", "net=esdr"], ["3 mistakes", "gama:", "epochs=x:", "net=esdr:"]),
        (["-m", "gamma=0.1,-2", "net=edsr,esdr"], ["gamma=-2:", "net=esdr:"]),
        (["trian"], ["did you mean train?", "evaluate", "enhance", "score"]),
        (["evaluate"], ["checkpoint: is required"]),
        (["evaluate", "checkpoint=a.ckpt", "scale=x"], ["a.ckpt: no such file", "scale=x:"]),
        (["enhance", "input=absent.png", "checkpoint=a.ckpt"], ["input=absent.png: no such file"]),
        (["score", "input=absent/*.png"], ["no file matches"]),
        (["score", "input=a.png", "output=scores.txt"], ["must end in .csv"]),
        (["data=div2k"], ["data/DIV2K/DIV2K_train_HR: no such folder", "prepare dataset=div2k"]),
        (["data=photos", "data.val_hr=absent"], ["data.train_hr=null: there are no photos"]),
        (
            ["data=photos", "data.val_hr=a", "data.train_hr=absent"],
            ["data.train_hr=absent: no such file or folder", "data.val_hr=a: no such"],
        ),
        (["data=benchmark", "data.root=a"], ["Benchmark has no photos to train on"]),
        (["data.degradation.blur=-1"], ["data.degradation.blur=-1: a value from 0 to 50"]),
        (["data.degradation.jpeg=[10,200]"], ["data.degradation.jpeg=[10, 200]"]),
        (["data.batch_size=many"], ["data.batch_size=many: should be a valid integer"]),
        (["data.on_device=true", "data.num_workers=2"], ["goes with data.num_workers=0"]),
        (["data.scale=[2,5]"], ["data.scale=[2, 5]: set scale, which data"]),
        (["experiment=nima_mnasnet"], ["data/AVA/AVA.txt: cannot be read", "prepare dataset=ava"]),
        (["experiment=nima_mnasnet", "data.split=half"], ["data.split=half: should be 'official'"]),
        (["experiment=sample_nima", "data=rated"], ["data.images: is required", "data.ratings:"]),
        (["experiment=sample_nima", "scorer.resize_rule=pad"], ["scorer.resize_rule=pad: "]),
        (["prepare"], ["dataset: is required"]),
        (["prepare", "dataset=flickr"], ["dataset=flickr: should be 'div2k', 'ava'"]),
        (["prepare", "dataset=photos"], ["needs root=FOLDER"]),
        (["prepare", "dataset=photos", "root=absent"], ["root=absent: no such file or folder"]),
        (["prepare", "dataset=ava"], ["AVA.txt or images/ is missing", "github.com"]),
        (["prepare", "dataset=div2k", "download=false"], ["DIV2K_train_HR: no such folder"]),
        (["prepare", "dataset=div2k", "scales=[2,7]"], ["scales.1=7: should be 1, 2, 3 or 4"]),
        (["export", "checkpoint=a.ckpt", "output=b.pt"], ["must end in .safetensors"]),
        (["export", "checkpoint=a.ckpt", "output=b.onnx"], ["needs format=onnx"]),
        (["scale=2.0"], ["scale=2.0: should be 1, 2, 3 or 4"]),
        (["scale=2,3"], ["scale=2,3: several values need -m"]),
        (["evaluate", "checkpoint=a.ckpt,b.ckpt"], ["several values need -m", "brackets"]),
        (["scale=1"], ["scale=1: set data.degradation.blur"]),
        (["net.scale=3"], ["net.scale=3: set scale"]),
        (["loss.aesthetic.weight=0.3"], ["loss.aesthetic.weight=0.3: set gamma"]),
        (["loss.aesthetic.scorer=a"], ["loss.aesthetic.scorer=a: set scorer.checkpoint"]),
        (["loss=[l1]"], ["gamma=0.4: loss=[l1] has no aesthetic term"]),
        (["loss=[]"], ["choose at least one of aesthetic"]),
        (["gamma=0", "loss.l2.weight=0"], ["no term has a weight above 0"]),
        (["loss.l2.weight=-1"], ["loss.l2: weight=-1: the weight of a term is 0 or more"]),
        (["loss.l2.weight=a"], ["loss.l2.weight=a: should be a valid number"]),
        (["loss.l2.from_step=0.5"], ["loss.l2.from_step=0.5: should be a valid integer"]),
        (["+loss.own.weight=1"], ["loss.own: needs a _target_"]),
        (["+loss.own._target_=json.dumps"], ["loss.own: dumps() takes 1 positional argument"]),
        (["+loss.own._target_=json.dump"], ["loss.own: "]),
        (
            ["loss=[l2,features,aesthetic]", "loss.features.layers=[99]"],
            ["has the modules 0, 1, 2"],
        ),
        (["trainer.precision=64-true"], ["64-true: 32-true, bf16-mixed, 16-mixed"]),
        (["trainer.precision=16-mixed"], ["needs a GPU; a CPU has bf16-mixed"]),
        (["trainer.gradient_clip_val=-1"], ["gradient_clip_val=-1: above 0, or null"]),
        (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu: cpu or gpu"]),
        (
            ["model.compile=reduce-overhead", "trainer.accumulate_grad_batches=2"],
            ["CUDA graphs overwrite the gradients", "model.compile=true"],
        ),
        (["model.compile=fast"], ["model.compile=fast: true, false, or one of default, reduce-"]),
        (["callbacks=nima"], ["RatingPictures goes with another model; callbacks=enhancement"]),
        (["experiment=sample_nima", "callbacks=enhancement"], ["callbacks=nima goes with this"]),
        (["sweep=gama"], ["sweep=gama: no such sweep; did you mean gamma?"]),
        (["sweep=gamma", "net=edsr,srcn"], ["net=srcn: no such net"]),
        (["sweep=scale", "name=x"], ["would share one folder"]),
        (
            ["interpolate", f"checkpoints=[{SHIPPED},{SHIPPED}]", "data=ava"],
            ["AVA does not give LR/HR pairs"],
        ),
        (["interpolate", "checkpoints=[a,b]", "steps=102"], ["steps=102: "]),
    ],
)
def test_mistakes(cli: Cli, folder: Path, words: list[str], messages: list[str]) -> None:
    done = cli(*words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    for message in messages:
        assert message in done.err
    assert "Traceback" not in done.err + done.out
    assert list(folder.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize("key", ["checkpoint", "init_from", "scorer.checkpoint"])
def test_a_folder_without_a_best_checkpoint_is_refused(cli: Cli, folder: Path, key: str) -> None:
    (folder / "mine").mkdir()
    words = ["enhance", "input=."] if key == "checkpoint" else ["gamma=0.1"]
    done = cli(*words, f"{key}=mine")
    assert done.code == 2
    assert f"{key}=mine: is a folder without checkpoints/best.ckpt" in done.err


def test_traceback_on_request(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="gama"):
        cli("gama=1")


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_help_says_what_can_be_set(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    for name in command_line.COMMANDS:
        assert re.search(rf"^  {name}\b", done.out, re.MULTILINE)
    keys = OmegaConf.load(CONF / f"{command}.yaml")
    for key in set(keys) - {"defaults"}:
        assert f"\n{key}:" in done.out


def test_paths_with_odd_characters_need_no_quotes(tmp_path: Path) -> None:
    odd = tmp_path / "a=b, c (1).png"
    odd.touch()
    kinds = {"input": Text()}
    assert as_text(f"input={odd}", kinds, sweep=False) == f'input="{odd}"'
    assert as_text("input=plain/name.png", kinds, sweep=False) == "input=plain/name.png"
    assert as_text("gamma=0,1", kinds, sweep=False) == "gamma=0,1"


def test_run_py_is_short() -> None:
    assert len((ROOT / "run.py").read_text().splitlines()) <= 48
