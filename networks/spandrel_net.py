"""Architectures of the package spandrel, and networks that it recognises by their weights.

spandrel (MIT licence, chaiNNer) holds some forty published architectures and tells from the shapes
of the tensors in a file which one they belong to. It is the extra `spandrel`, imported only where
it is needed.

Images are RGB in [0, 1]. Shape suffixes: B batch, C channels, H and W height and width of the
input.
"""

import copy
import difflib
import importlib
import inspect
import math
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.scales import SCALES, check_scale
from networks.weights import State
from system.json_files import not_plain
from system.terminal import printable

# What constructors and loaders raise for arguments and shapes that do not go together.
ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
INSTALL = "pip install 'neural-image-enhancement[spandrel]'"
TRIAL = 16  # pixels a side of the image that a new network is tried on
MAX_NUMBER = 1024  # in options; widths, depths and windows are below it
WINDOWS = ("window_size", "split_size", "split_size_0", "split_size_1", "stripe_size", "patch_size")
# Tables of positions take memory by the fourth power of a window.
BOUNDS = {**dict.fromkeys(WINDOWS, 32), "stripe_size": 64, "overlap_ratio": 1, "img_size": 256}
MAX_LENGTH = 64  # of lists in options, such as one depth for each stage
UPSAMPLED = {"upsampler": "pixelshuffle"}  # the class's own default does not enlarge


class Arch(NamedTuple):
    """An architecture: where its class stands, its argument for the scale, and our defaults."""

    place: str
    scale: str | None = "upscale"
    defaults: Mapping[str, object] = {}


# All that enlarge RGB images by a scale which their class takes. Restoration at the same size,
# faces and inpainting are left out, and these: AuraSR and IPT (fixed sizes), MMRealSR (x4 alone,
# two outputs).
ARCHITECTURES = {
    "ATD": Arch("ATD.ATD", defaults=UPSAMPLED),
    "CRAFT": Arch("CRAFT.CRAFT"),
    "Compact": Arch("Compact.Compact"),
    "DAT": Arch("DAT.DAT"),
    "DCTLSA": Arch("DCTLSA.DCTLSA"),
    "DITN": Arch("DITN.DITN"),
    "DRCT": Arch("DRCT.DRCT", defaults=UPSAMPLED),
    "ESRGAN": Arch("ESRGAN.ESRGAN", "scale"),
    "FDAT": Arch("FDAT.FDAT", "scale"),
    # The windows cannot be told from its weights; these are the ones that spandrel assumes.
    "GRL": Arch(
        "GRL.GRL",
        defaults={
            **UPSAMPLED,
            "window_size": 32,
            "stripe_size": [64, 64],
            "stripe_shift": True,
            "anchor_window_down_factor": 4,
        },
    ),
    "HAT": Arch("HAT.HAT", defaults={"window_size": 16}),  # as published
    "MoESR": Arch("MoESR.MoESR", "scale"),
    "MoSR": Arch("MoSR.MoSR"),
    "OmniSR": Arch("OmniSR.OmniSR", "up_scale"),
    "PLKSR": Arch("PLKSR.PLKSR", "upscaling_factor"),
    "RCAN": Arch("RCAN.RCAN", "scale"),
    "RGT": Arch("RGT.RGT"),
    "RealPLKSR": Arch("PLKSR.RealPLKSR", "upscaling_factor"),
    "SAFMN": Arch("SAFMN.SAFMN", "upscaling_factor", {"dim": 36}),  # as published
    # Normalised to 0..255, random weights give outputs of +-30 where images have 0..1.
    "SPAN": Arch("SPAN.SPAN", defaults={"num_in_ch": 3, "num_out_ch": 3, "norm": False}),
    "SeemoRe": Arch("SeemoRe.SeemoRe", "scale"),
    "SwiftSRGAN": Arch("SwiftSRGAN.SwiftSRGAN", "upscale_factor"),
    # Windows of 7 stand for models of JPEG artefacts, whose range differs.
    "Swin2SR": Arch("Swin2SR.Swin2SR", defaults={**UPSAMPLED, "window_size": 8}),
    "SwinIR": Arch("SwinIR.SwinIR", defaults={**UPSAMPLED, "window_size": 8}),
    "UpCunet2x": Arch("RealCUGAN.UpCunet2x", None),  # Real-CUGAN
    "UpCunet2x_fast": Arch("RealCUGAN.UpCunet2x_fast", None),
    "UpCunet3x": Arch("RealCUGAN.UpCunet3x", None),
    "UpCunet4x": Arch("RealCUGAN.UpCunet4x", None),
}


class SpandrelNet(nn.Module):
    """One of spandrel's architectures for one scale, with random weights.

    Exported weights open in spandrel, and in whatever drops the prefix `module.`: the name that
    `DataParallel` has made usual.

    Args:
        arch: a name of `ARCHITECTURES`, such as SPAN or SwinIR.
        scale: 1, 2, 3 or 4, as far as the architecture has it; 1 restores at the same size.
        options: arguments of the architecture's class, as plain data; others keep its defaults.

    Attributes:
        step: LR pixels between the places where tiles may start: the windows of attention.

    Raises:
        ValueError: if spandrel is missing, there is no such architecture, scale or option, or
            spandrel would not recognise the weights.
    """

    computes_values = True  # in its constructor, which cannot be told on `meta`

    def __init__(
        self, arch: str = "SPAN", scale: int = 2, *, options: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        options = dict(options or {})
        check_scale(self, scale)
        check_options(arch, options)
        arguments = arguments_of(arch, scale) | options
        model_class = load_class(arch)
        try:
            # Constructors compute with values, which `meta` lacks; some warn about old functions.
            with torch.device("cpu"), warnings.catch_warnings(action="ignore"):
                model = model_class(**arguments)
                self.take(arch, model, architecture(arch).load(dict(model.state_dict())))
                with torch.no_grad():  # numbers of heads, for example, have to divide widths
                    self.eval()(torch.zeros(1, 3, TRIAL, TRIAL))
        except ERRORS as error:
            reason = first_line(error)
            raise ValueError(f"{arch} scale={scale} options={options}: {reason}") from error
        self.train()
        if self.scale != scale:
            raise ValueError(f"scale={scale}: this {arch} is for x{self.scale}")

    def take(self, arch: str, model: nn.Module, found: Any) -> None:  # noqa: ANN401
        """Wrap a model; `found` is what spandrel says about its weights."""
        self.arch = arch
        self.module = model
        self.scale = found.scale
        self.minimum = found.size_requirements.minimum
        self.multiple = found.size_requirements.multiple_of
        self.step = step_of(model, self.multiple)

    @classmethod
    def of(cls, found: Any) -> Self:  # noqa: ANN401
        """Wrap a model that spandrel has recognised, with its weights."""
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        net.take(name_of_class(type(found.model)), found.model, found)
        return net

    @property
    def arguments(self) -> dict[str, object]:
        """Return the arguments that build the same network, as plain data."""
        usual = arguments_of(self.arch, self.scale)
        defaults = inspect.signature(type(self.module)).parameters
        given: dict[str, Any] = dict(self.module.hyperparameters)  # type: ignore[arg-type]
        options = {}
        for name, parameter in defaults.items():
            value = listed(given.get(name))
            if not_plain(value, name) is None and value != listed(
                usual.get(name, parameter.default)
            ):
                options[name] = value
        return {"arch": self.arch, "scale": self.scale, "options": options}

    def merged(self) -> Self:
        """Return a copy for inference that only reads its weights, as export to ONNX needs.

        SPAN merges the convolutions of its training in every call; here they are merged once.
        """
        net = copy.deepcopy(self).eval()
        for module in list(net.modules()):
            for name, part in module.named_children():
                if type(part).__name__ == "Conv3XC" and not part.has_relu:
                    part.update_params()  # type: ignore[operator]
                    setattr(module, name, part.eval_conv)
        return net

    def _get_name(self) -> str:
        return self.arch  # in messages and in `repr`

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32, not clamped."""
        if torch.is_inference_mode_enabled():  # where SPAN would set weights that cannot be trained
            with torch.inference_mode(False), torch.no_grad():
                return self.restored(lr_BCHW)
        return self.restored(lr_BCHW)

    def restored(self, lr_BCHW: Tensor) -> Tensor:
        """Compute `forward`."""
        height, width = lr_BCHW.shape[2:]
        x_BCHW = lr_BCHW.to(torch.float32, copy=True)  # RCAN changes its input
        if self.minimum > 1 or self.multiple > 1:
            x_BCHW = padded(x_BCHW, self.minimum, self.multiple)
        sr_BCHW: Tensor = self.module(x_BCHW)
        return sr_BCHW.float()[..., : height * self.scale, : width * self.scale]


def listed(value: object) -> object:
    """Return tuples as lists, which files keep."""
    return list(value) if isinstance(value, tuple) else value


def padded(x_BCHW: Tensor, minimum: int, multiple: int) -> Tensor:
    """Extend images to the right and bottom to a multiple, mirrored as far as they reach."""
    for dim in (2, 3):
        size = x_BCHW.shape[dim]
        left = -(-max(size, minimum) // multiple) * multiple - size
        mirrored = min(left, size - 1)
        for amount, mode in ((mirrored, "reflect"), (left - mirrored, "replicate")):
            sides = (0, amount, 0, 0) if dim == 3 else (0, 0, 0, amount)
            x_BCHW = F.pad(x_BCHW, sides, mode) if amount else x_BCHW
    return x_BCHW


def step_of(model: nn.Module, multiple: int) -> int:
    """Return the common multiple of an architecture's windows, in LR pixels."""
    given: Mapping[str, Any] = model.hyperparameters  # type: ignore[assignment]
    sizes = [given[name] for name in WINDOWS if name in given]
    flat = [n for size in sizes for n in (size if isinstance(size, list | tuple) else [size])]
    return math.lcm(multiple, *(n for n in flat if isinstance(n, int) and n > 0))


def spandrel() -> ModuleType:
    """Import spandrel.

    Raises:
        ValueError: saying how to install it.
    """
    try:
        return importlib.import_module("spandrel")
    except ImportError as error:
        raise ValueError(f"networks of others need the package spandrel: {INSTALL}") from error


def architecture(arch: str) -> Any:  # noqa: ANN401
    """Return spandrel's entry of an architecture."""
    return spandrel().MAIN_REGISTRY[ARCHITECTURES[arch].place.partition(".")[0]].architecture


def load_class(arch: str) -> type[nn.Module]:
    """Import the class of an architecture."""
    spandrel()
    module, _, name = ARCHITECTURES[arch].place.partition(".")
    found: type[nn.Module] = getattr(
        importlib.import_module(f"spandrel.architectures.{module}"), name
    )
    return found


def name_of_class(model_class: type) -> str:
    """Return the name of an architecture by its class."""
    return next(name for name in ARCHITECTURES if load_class(name) is model_class)


def arguments_of(arch: str, scale: int) -> dict[str, object]:
    """Return the arguments that an architecture has by default here."""
    _, key, defaults = ARCHITECTURES[arch]
    arguments = {**defaults, **({key: scale} if key else {})}
    if scale == 1 and "upsampler" in arguments:
        arguments["upsampler"] = ""
    return arguments


def check_arch(arch: object) -> None:
    """Raise a ValueError, with the nearest name, unless there is such an architecture."""
    if arch in ARCHITECTURES:
        return
    names = {name.lower(): name for name in ARCHITECTURES}
    near = difflib.get_close_matches(str(arch).lower(), names, 1)
    hint = f"did you mean {names[near[0]]}?" if near else f"there are {', '.join(ARCHITECTURES)}"
    raise ValueError(f"arch={printable(str(arch))}: no such architecture; {hint}")


def check_options(arch: str, options: Mapping[str, object]) -> None:
    """Raise a ValueError unless an architecture has these options, with numbers in bounds."""
    check_arch(arch)
    names = [name for name in inspect.signature(load_class(arch)).parameters if name != "self"]
    for name, value in options.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ValueError(f"options.{name}: {arch} has no such option; {hint}")
        values = value if isinstance(value, list | tuple) else [value]
        most = BOUNDS.get(name, MAX_NUMBER)
        if len(values) > MAX_LENGTH:
            raise ValueError(f"options.{name}: at most {MAX_LENGTH} numbers")
        for one in values:
            if isinstance(one, int | float) and not abs(one) <= most:
                raise ValueError(f"options.{name}={value}: at most {most}")


def recognise(state: State) -> SpandrelNet:
    """Build the network that weights belong to, as spandrel tells from their names and shapes.

    Raises:
        ValueError: if spandrel is missing, does not know them, or they do not enlarge RGB images.
    """
    library = spandrel()
    entries = library.MAIN_REGISTRY.architectures("detection")
    found = next((e.architecture for e in entries if e.detect(state)), None)
    if found is None:
        raise ValueError("neither the weights of one of our networks nor known to spandrel")
    known = {arch.place.partition(".")[0] for arch in ARCHITECTURES.values()}
    wanted = "super-resolution of RGB images by 1 to 4 is needed"
    if str(found.id) not in known:
        raise ValueError(f"holds a {found.name}, which is not used here; {wanted}")
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{printable(name)} holds values that are not finite")
        if name.endswith((".weight", ".bias")) and not value.is_floating_point():
            raise ValueError(f"{printable(name)} is {value.dtype}; weights are needed")
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = found.load(dict(state))
    except ERRORS as error:
        reason = first_line(error)
        raise ValueError(f"looks like {found.name}, but does not fit it: {reason}") from error
    channels = loaded.input_channels, loaded.output_channels
    if channels != (3, 3) or loaded.scale not in SCALES:
        what = f"for x{loaded.scale}, {channels[0]} to {channels[1]} channels"
        raise ValueError(f"holds a {found.name} {what}; {wanted}")
    return SpandrelNet.of(loaded)


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return printable(words, 300)
