"""Guess what a user meant: a key under the name other projects use, or a misspelt one.

No hint is better than a wrong one: only typing slips count as misspellings.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher

from system.places import CONF

SHORT = 6  # characters
NEAR_SHORT, NEAR = 0.75, 0.85  # similarity of a word with a slip, in short and in longer words
FEW = 12  # names listed if none is near

# Our keys, and their names in Lightning, BasicSR, timm and other projects. If several of our keys
# share a foreign name, the first that the command has is meant.
CALLED_ELSEWHERE = {
    "optim.optimizer.lr": "lr learning_rate base_lr init_lr optim.lr optimizer.lr",
    "optim.optimizer.weight_decay": "wd weight_decay",
    "optim": "opt optimizer optim_g",
    "optim.schedule": "scheduler lr_scheduler sched schedule",
    "checkpoint": "ckpt_path ckpt pretrained weights checkpoint_path model_path load_from",
    "checkpoints": "ckpt_path ckpt checkpoint checkpoint_path weights",
    "init_from": "ckpt_path ckpt pretrained weights checkpoint_path model_path load_from "
    "checkpoint initial_checkpoint pretrained_path pretrain_network_g",
    "resume": "resume_state resume_from auto_resume resume_training resume_from_checkpoint",
    "trainer.devices": "gpus num_gpus num_gpu devices gpu_ids ngpus",
    "trainer": "gpu cuda accelerator use_gpu device",
    "device": "gpu cuda accelerator use_gpu",
    "trainer.num_nodes": "nodes nnodes",
    "trainer.precision": "amp fp16 bf16",
    "precision": "amp fp16 bf16",
    "epochs": "max_epochs num_epochs epochs_num epoch n_epochs num_epoch total_epochs",
    "loss": "model.loss criterion loss_fn model.loss.fidelity",
    "loss.aesthetic.mode": "model.loss.mode",
    "loss.aesthetic.warmup": "model.loss.warmup",
    "loss.aesthetic.score_always": "model.loss.score_always",
    "scale": "upscale factor upscale_factor scale_factor sr_factor sr_scale upsampling sf",
    "debug": "fast_dev_run trainer.fast_dev_run smoke smoke_test",
    "net": "arch architecture network network_g model_name",
    "data.batch_size": "bs batch batchsize batch_size_per_gpu",
    "batch_size": "bs batch batchsize",
    "data.patch_size": "gt_size crop_size lq_size patch",
    "data.num_workers": "workers num_worker_per_gpu n_workers",
    "num_workers": "workers n_workers",
    "data": "dataset datasets dataroot",
    "dataset": "data",
    "seed": "manual_seed random_seed seed_everything",
    "trainer.accumulate_grad_batches": "accumulate grad_accum grad_accum_steps "
    "gradient_accumulation_steps",
    "trainer.gradient_clip_val": "clip_grad grad_clip clip",
    "callbacks": "ema model_ema ema_decay",
    "model.compile": "torch_compile",
    "logger": "log wandb tensorboard use_wandb",
    "output": "out out_dir output_dir save_dir outdir results_dir",
    "paths.output_dir": "out_dir save_dir default_root_dir outdir results_dir",
    "input": "in inputs image images img photo photos source src file files folder dir path",
    "name": "exp_name run_name",
    "overwrite": "force",
    "self_ensemble": "tta x8 ensemble geometric_ensemble",
    "tile": "tile_size chop",
    "net.num_blocks": "depth n_resblocks num_block num_resblocks",
    "net.num_features": "width n_feats num_feat channels",
}
WORDED = {  # where a value goes with the key
    "trainer": "trainer=gpu",
    "callbacks": "callbacks=enhancement_ema",
    "logger": "logger=[csv,wandb]",
    "resume": "resume=true",
    "debug": "debug=smoke",
}
FIRST_ARGUMENT = {  # of commands that have one
    "enhance": "input", "score": "input", "import_weights": "input", "evaluate": "checkpoint",
    "export": "checkpoint", "report": "runs", "prepare": "dataset", "interpolate": "checkpoints",
    "serve": "checkpoint",
}  # fmt: skip
OUTPUTS = {  # suffixes of what commands write to `output`
    "export": (".safetensors", ".onnx", ".pth"),
    "import_weights": (".safetensors",),
    "score": (".csv", ".json", ".jsonl"),
}
DATASETS = (  # of prepare
    *("div2k", "ava", "photos", "rated", "koniq", "spaq", "kadid", "aadb", "para", "biq2021"),
)
PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


def near(name: str, names: Iterable[str]) -> str | None:
    """Return the valid name that was probably meant; None unless one is nearest, and near."""
    likeness = {
        other: SequenceMatcher(None, name.lower(), other.lower()).ratio() for other in set(names)
    }
    first, second, *_ = [*sorted(likeness.values(), reverse=True), 0, 0]
    if first == second or first < (NEAR_SHORT if len(name) < SHORT else NEAR):
        return None
    return max(likeness, key=likeness.__getitem__)


def called_elsewhere(key: str) -> bool:
    """Return whether a name is what other projects call one of our keys."""
    return any(key in theirs.split() for theirs in CALLED_ELSEWHERE.values())


def fitting(hint: str, key: str, value: str) -> str:
    """Adapt a hint to the given value: device=cpu means trainer=cpu."""
    if key in ("gpu", "cuda", "use_gpu") and value.lower() in ("false", "0"):
        value = "cpu"
    if value.startswith("cpu"):
        return hint.replace("trainer=gpu", "trainer=cpu")
    if "tensorboard" in key:
        return hint.replace("[csv,wandb]", "[csv,tensorboard]")
    return hint


def nearest(name: str, names: Collection[str]) -> str:
    """Hint at the nearest valid name, or at all of them if they are few."""
    meant = near(name, names)
    if meant:
        return f"; did you mean {meant}?"
    return f"; allowed are {', '.join(names)}" if 0 < len(names) <= FEW else ""


def key_meant(
    key: str,
    command: str,
    keys: Collection[str],
    groups: Collection[str],
    elsewhere: Mapping[str, Collection[str]],
) -> str | None:
    """Return the key to use instead of one that a command lacks, or None."""
    names = [*keys, *groups]
    if key.startswith(f"{command}."):
        rest = key.removeprefix(f"{command}.")
        return rest if rest in names else key_meant(rest, command, keys, groups, elsewhere)
    for ours, theirs in CALLED_ELSEWHERE.items():
        if key in theirs.split() and (ours in names or (ours, command) == ("debug", "train")):
            return WORDED.get(ours, ours)
    ends = [name for name in keys if name.endswith(f".{key}")]
    if 0 < len(ends) <= 2:
        return " or ".join(ends)
    owners: dict[str, list[str]] = {}
    for option, others in elsewhere.items():
        for other in others:
            if other == key or other.endswith(f".{key}"):
                owners.setdefault(other, []).append(option)
    if len(owners) == 1 and not ends:
        (name, options), *_ = owners.items()
        return f"{name}, which belongs to {' or '.join(options)}"
    return None if ends else near(key, names)


def with_files(command: str, words: list[str]) -> str:
    """Complete a command whose arguments were given without keys: `enhance input=photo.jpg`.

    Empty if the meaning cannot be inferred.
    """
    if command == "train":
        known = len(words) == 1 and (CONF / "experiment" / f"{words[0]}.yaml").is_file()
        return f"train experiment={words[0]}" if known else ""
    if command == "prepare" and words[0] not in DATASETS:
        return f"prepare dataset=photos root={quote(words[0])}" if len(words) == 1 else ""
    if command not in FIRST_ARGUMENT or (command == "interpolate" and len(words) != 2):
        return ""
    if command == "serve" and words[0].isdigit():
        return f"serve port={words[0]}" if len(words) == 1 else ""
    inputs, outputs = list(words), []
    if len(words) > 1 and words[-1].endswith(OUTPUTS.get(command, ())):
        inputs, outputs = words[:-1], words[-1:]
    if len(inputs) > 1 and command in OUTPUTS and command != "score":
        return ""  # they take one file
    shown = inputs if len(inputs) <= FEW else [*inputs[:2], "..."]
    value = inputs[0] if len(inputs) == 1 else f"[{','.join(shown)}]"
    parts = [f"{FIRST_ARGUMENT[command]}={quote(value)}"]
    return " ".join([command, *parts, *(f"output={quote(name)}" for name in outputs)])


def quote(value: str) -> str:
    """Quote a value for a shell; most shells need no quotes for brackets and commas."""
    return value if re.fullmatch(r"[\w@%+:,./\[\]-]+", value) else shlex.quote(value)
