"""Checkpoints that cannot run code: plain data in, networks out.

A Lightning checkpoint carries, beside Lightning's own entries, a plain dict under `record` that
says how to build the network again and where it comes from; a safetensors file carries the same
dict as JSON in its header. Both are read without unpickling objects, and only classes under
`networks.`, and in modules that the user's configuration trusts, are built from them.
"""

import base64
import copy
import functools
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import PIL.Image
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from images.pixels import to_tensor, to_unit
from lightning_modules.building import TooLargeError, build_network
from lightning_modules.record import Record, SelfTest, as_json
from networks.bare_weights import unwrapped
from networks.scales import SCALES, scales_of
from networks.tensor_files import check_state, load_plain, read_safetensors
from networks.weights import load_weights
from system.files import current_umask, replacing
from system.places import expanded
from system.terminal import printable

if TYPE_CHECKING:  # it needs torchvision, which enhancers do without
    from networks.nima import NIMA

# Allowed change of the self-test's score. Other machines and versions of PyTorch stay below a tenth
# of it; another way of resizing or normalising moves scores by more.
TOLERANCE = 0.01
MAX_PIXELS = 1 << 20  # of the self-test's image
NIMA_TARGET = "networks.nima.NIMA"
PREFIX = "net."  # of the network's parameters in a Lightning state dict


def network_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's part of a LightningModule's state dict."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in state_dict.items()
        if name.startswith(PREFIX)
    }


def sealed(record: Record, network: nn.Module, state: dict[str, Tensor]) -> Record:
    """Add a checksum to a record, and a self-test if the network is a scorer.

    Args:
        record: see `lightning_modules.record`.
        network: of the class that the record names; left as it is.
        state: its weights, as they are written.
    """
    record = replace(record, self_test=None, sha256=None)
    if record.kind == "scorer":
        from networks.nima import NIMA

        assert isinstance(network, NIMA)
        written = copy.deepcopy(network).cpu().float().eval()
        written.load_state_dict({name: to_float(value.cpu()) for name, value in state.items()})
        if type(network) is NIMA:  # the arguments of other classes are as configured
            record = replace(record, net={"_target_": NIMA_TARGET, **written.arguments})
        image = self_test_image()
        record = replace(record, self_test=SelfTest(image, rate_png(written, image)))
    return replace(record, sha256=checksum(record.plain(), state))


def checksum(raw: Mapping[str, object], state: dict[str, Tensor]) -> str:
    """Hash all weights and a record as plain data, without the checksum itself."""
    rest = {name: value for name, value in raw.items() if name != "sha256"}
    total = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def self_test_image() -> str:
    """Draw a test picture of slopes, edges and ever finer rings, as PNG in Base64 (35 kB).

    It is larger than the input of scorers and its rings alias, so another way of resizing shows up.
    """
    y, x = np.mgrid[0:320, 0:440].astype(np.float64)
    radius2 = (x - 140) ** 2 + (y - 160) ** 2
    rings = np.where(radius2 < 130**2, 127.5 + 127.5 * np.cos(np.pi * radius2 / 400), 128)
    squares = 255 * ((x // 20 + y // 20) % 2)
    picture = np.stack([rings, np.roll(rings, 150, axis=1), squares], axis=2)
    picture[:60] = np.stack([x[:60], 440 - x[:60], 7 * y[:60]], axis=2) * (255 / 440)
    levels = np.rint(picture / 85) * 85  # few grey levels compress well
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels.astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def rate_png(scorer: "NIMA", image: str) -> float:
    """Score a PNG in Base64, from pixels to mean score, by the scorer's own resize rule."""
    with PIL.Image.open(io.BytesIO(base64.b64decode(image)), formats=["PNG"]) as file:
        if file.width * file.height > MAX_PIXELS:
            raise ValueError("the image is too large")
        pixels = np.array(file.convert("RGB"))
    return scorer.score(to_unit(to_tensor(pixels))[None]).item()


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], Record | None]:
    """Read the network's weights and the record of a .ckpt, .pt or .safetensors file.

    Returns:
        The network's state dict (float32) and the record; None for bare weights.

    Raises:
        ValueError: if the file is missing or is no checkpoint.
    """
    path = expanded(path)
    try:
        is_file = path.is_file()
    except OSError as error:  # such as in a folder of another user
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if not is_file:
        raise ValueError(f"{path}: no such checkpoint")
    if path.suffix.lower() == ".safetensors":
        state, metadata = read_safetensors(path)
        raw = metadata.get("record")
        try:
            raw = None if raw is None else json.loads(raw)
        except (ValueError, RecursionError) as error:
            reason = printable(str(error))
            raise ValueError(f"{path}: its header is damaged ({reason})") from error
        if raw is not None:
            return floats(state), checked(raw, state, path)
        return floats(unwrapped(state)), None
    loaded = load_plain(path)
    if "record" not in loaded:  # bare weights, such as the authors' .pt files
        bare = unwrapped(loaded)
        check_state(bare, path)
        return floats(network_state(bare) or bare), None  # the former of a Lightning checkpoint
    check_state(loaded.get("state_dict"), path)
    state = network_state(loaded["state_dict"])
    return state, checked(loaded["record"], state, path)


def read_record(path: str | Path) -> Record | None:
    """Read the record of a file; one that has not changed is read once per process.

    Raises:
        ValueError: as `read_checkpoint`.
    """
    path = expanded(path)
    try:
        found = path.stat()
    except OSError:
        return read_checkpoint(path)[1]  # says why it cannot be read
    return record_of(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=8)
def record_of(path: Path, mtime_ns: int, size: int) -> Record | None:
    """Read the record of a file, again only after it has changed."""
    return read_checkpoint(path)[1]


def checked(raw: object, state: dict[str, Tensor], path: Path) -> Record:
    """Check and parse the record of a file.

    Raises:
        ValueError: if it is damaged, or not of these weights.
    """
    as_json(raw, path)  # else it might be endless
    try:
        whole = isinstance(raw, dict) and raw.get("sha256") == checksum(raw, state)
    except ValueError as error:  # names that are no UTF-8
        raise ValueError(f"{path}: its record is damaged") from error
    record = Record.parse(raw, path)
    if not whole:
        raise ValueError(f"{path}: its checksum is wrong: the file was damaged or changed")
    return record


def floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert half precision to float32 in all weights."""
    return {name: to_float(value) for name, value in state.items()}


def to_float(value: Tensor) -> Tensor:
    """Convert half precision to float32; counters stay integers."""
    return value.float() if value.is_floating_point() else value


def load_network(
    path: str | Path,
    kind: str | None = None,
    trusted: Sequence[str] = (),
    *,
    scale: int | None = None,
) -> tuple[nn.Module, Record]:
    """Build the network of a checkpoint and load its weights, in eval mode, on the CPU.

    Args:
        path: a .ckpt of this project, a .safetensors file, or an enhancer's weights without a
            record, which its names and shapes tell: ours, or one that spandrel knows.
        kind: `enhancer` or `scorer`, if only that kind is allowed.
        trusted: modules and packages, besides `networks`, whose classes may be built.
        scale: of an enhancer without a record whose weights suit any scale (SRCNN, CAN).

    Raises:
        ValueError: if the file is damaged, unknown or of another kind.
    """
    state, record = read_checkpoint(path)
    if record is None and kind == "scorer":
        raise ValueError(f"{path}: bare weights; a checkpoint that describes its network is needed")
    if record is None:
        from lightning_modules.foreign import foreign_enhancer

        try:
            network, record = foreign_enhancer(Path(path), state, scale)
        except (ValueError, TooLargeError) as error:
            raise ValueError(f"{path}: {error}") from error
        return network.eval(), record
    if kind is not None and record.kind != kind:
        raise ValueError(
            f"{path}: is a checkpoint of kind {record.kind}; one of kind {kind} is needed"
        )
    try:
        network = build_network(record.net, trusted, state=state)
        check_kind(network, record)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_weights(network, state, path)
    network.eval()
    if record.kind == "scorer":
        test_itself(cast("NIMA", network), record.self_test, path)  # see `check_kind`
    return network, record


def check_kind(network: nn.Module, record: Record) -> None:
    """Raise a ValueError unless a network can be what its record says."""
    if record.kind == "scorer":
        from networks.nima import NIMA

        if not isinstance(network, NIMA):
            raise ValueError(f"its {record.class_name} is not a scorer")
    else:
        try:
            known = set(scales_of(network)) <= set(SCALES)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"its {record.class_name} is not an enhancer") from error
        if not known:
            raise ValueError(f"its {record.class_name} has other scales than 1, 2, 3 and 4")


def test_itself(scorer: "NIMA", test: SelfTest | None, path: str | Path) -> None:
    """Refuse a scorer whose rating of its own test image has changed since it was written."""
    if test is None:
        raise ValueError(f"{path}: contains no test image")
    try:
        score = rate_png(scorer, test.image)
    except Exception as error:  # decoders may raise anything
        raise ValueError(f"{path}: contains no test image") from error
    if not abs(score - test.score) < TOLERANCE:
        raise ValueError(
            f"{path}: rates its test image {score:.4f}, but {test.score:.4f} when it was written: "
            "this version of the code or of PyTorch gives other results"
        )


def load_scorer(path: str | Path, trusted: Sequence[str] = ()) -> "NIMA":
    """Load a scorer: `load_scorer("file.ckpt").score("photo.jpg")` is a mean score.

    Raises:
        ValueError: as `load_network`.
    """
    network, _ = load_network(path, "scorer", trusted)
    return cast("NIMA", network)


def save_safetensors(
    path: Path, network: nn.Module, record: Record, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write a network with its record, in half precision; the file is whole or absent.

    Args:
        path: a .safetensors file; replaced if it exists.
        network: what is written.
        record: see `lightning_modules.record`.
        dtype: of the weights in the file.
    """
    state = {
        name: value.detach().to(dtype).contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    record = sealed(record, network, state)
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata={"record": json.dumps(record.plain())})
        except SafetensorError as error:
            raise ValueError(f"{path}: cannot be written ({error})") from error
        temporary.chmod(0o666 & ~current_umask())  # safetensors leaves files private
