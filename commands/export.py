"""python run.py export: write a checkpoint's network as safetensors, ONNX or plain weights."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig
from pydantic import BaseModel

from lightning_modules.record import VERSION
from runs.invocation import Invocation
from runs.requirements import check_output, require_file
from system.files import replacing
from system.places import expanded

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of images in [0, 1]: a fortieth of a grey level
SIZES = ((24, 32), (37, 21))  # images that the exported network is tested on


class Options(BaseModel, strict=True):
    """Keys of conf/export.yaml."""

    checkpoint: str
    output: str
    format: Literal["safetensors", "onnx", "pth"]
    scale: Literal[1, 2, 3, 4] | None
    description: str | None
    trusted: list[str]
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    yield from require_file("checkpoint", cfg.checkpoint)
    suffix = Path(cfg.output).suffix
    if cfg.format == "safetensors" and suffix in (".onnx", ".pth"):
        yield f"output={cfg.output}: needs format={suffix[1:]}"
    else:
        yield from check_output(cfg, f".{cfg.format}")
    if cfg.format != "safetensors" and cfg.description is not None:
        yield "description=: applies only to format=safetensors"
    if cfg.format != "onnx" and cfg.scale is not None:
        yield f"scale={cfg.scale}: applies only to format=onnx; other files have all scales"


def run(cfg: DictConfig, _: Invocation) -> None:
    """Write the file."""
    import torch

    from lightning_modules.checkpoint import load_network, save_safetensors
    from lightning_modules.enhancing import load_enhancer
    from networks.bare_weights import bare_state
    from networks.scales import scales_of

    path = expanded(cfg.output)
    if cfg.format == "onnx":
        net = load_enhancer(cfg.checkpoint, cfg.scale, cfg.trusted)
        export_onnx(net, path)
        log.info("%s  x%d  %.2f MB", path, scales_of(net)[0], path.stat().st_size / 1e6)
    else:
        network, record = load_network(cfg.checkpoint, trusted=cfg.trusted)
        if cfg.format == "pth":
            with replacing(path) as temporary, open(temporary, "wb") as file:
                torch.save({"params": bare_state(network)}, file)
            log.info("%s  %.2f MB", path, path.stat().st_size / 1e6)
            return
        kept = replace(
            record,
            config=None,  # it names local paths
            wall_time_s=None,
            data=record.data if cfg.description is None else cfg.description,
            degradation=record.trained_degradation,
            version=VERSION,
        )
        save_safetensors(path, network, kept)
        log.info("%s  %.2f MB", path, path.stat().st_size / 1e6)


def export_onnx(net: "nn.Module", path: Path) -> None:
    """Write an enhancer of one scale as ONNX: `lr` B x 3 x H x W in [0, 1] to `sr`, any H and W.

    Raises:
        ValueError: if a package is missing, or the outputs of ONNX Runtime and PyTorch differ.
    """
    import torch

    from networks.spandrel_net import SpandrelNet

    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"format=onnx needs {error.name}: pip install onnx onnxscript onnxruntime"
        ) from error
    for name in ("onnxscript", "onnx_ir"):  # they log every pass
        logging.getLogger(name).setLevel(logging.WARNING)
    sides = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=2)}
    sides[3] = torch.export.Dim("width", min=2)
    if isinstance(net, SpandrelNet):
        net = net.merged()
    with replacing(path) as temporary:
        program = torch.onnx.export(
            net,
            (torch.rand(2, 3, *SIZES[0]),),
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes=(sides,),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(temporary, external_data=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        for size in SIZES:
            lr_BCHW = torch.rand(1, 3, *size)
            with torch.inference_mode():
                expected = net(lr_BCHW)
            found = torch.from_numpy(session.run(["sr"], {"lr": lr_BCHW.numpy()})[0])
            off = (found - expected).abs().max().item()
            if not off <= TOLERANCE:
                raise ValueError(f"{path}: the output of ONNX Runtime differs by {off:.2g}")
