"""The record of a checkpoint: what its network is, how to build it, and where it comes from.

A checkpoint may have been made by anybody, so every field is checked before anything reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Literal, NotRequired, Self, cast

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from lightning_modules.kinds import Kind
from lightning_modules.moved import present_names
from system.terminal import printable

VERSION = 2  # 1: version 0.1 of this project, whose records do not say it
MAX_VALUES = 200_000  # in a record; ours have some hundred
MAX_TEXT = 4 << 20  # characters; the self-test's image is most of them
MAX_DEPTH = 60

STRICT = ConfigDict(extra="forbid", strict=True)
OPEN = ConfigDict(extra="allow", strict=True)
Amount = int | float | list[int | float] | None  # as in `datamodules.degradations`
Degradations = dict[str, Amount]
DEGRADATIONS = dict[Literal["blur", "noise", "jpeg", "realistic", "tone"], Amount]
Text = Annotated[str, AfterValidator(lambda text: printable(text, 2000))]


@with_config(OPEN)
class DegradationConfig(TypedDict):
    """The node `data.degradation` of a configuration, as far as it is read here."""

    blur: NotRequired[Amount]
    noise: NotRequired[Amount]
    jpeg: NotRequired[Amount]


@with_config(OPEN)
class DataConfig(TypedDict):
    """The node `data` of a configuration, as far as it is read here."""

    degradation: NotRequired[DegradationConfig | None]


@with_config(OPEN)
class Config(TypedDict):
    """The resolved configuration of a training, as far as it is read here."""

    data: NotRequired[DataConfig]


@with_config(OPEN)
class NetConfig(TypedDict):
    """The class of a network and its arguments."""

    _target_: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", max_length=300)]


def shaped(shape: object) -> GetPydanticSchema:
    """Annotate a dict so that pydantic checks it as another type."""
    return GetPydanticSchema(lambda _, handler: handler(shape))


@dataclass(frozen=True, config=STRICT)
class SelfTest:
    """A picture as PNG in Base64, and its score when the file was written."""

    image: str
    score: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Record:
    """What a checkpoint says about its network.

    Attributes:
        kind: enhancer or scorer.
        net: `_target_`, its class, and the arguments that build it again, as plain data.
        data: description of the training data for readers.
        gamma: weight of the scorer in the loss; None for scorers.
        config: the whole resolved configuration of the training; None in exported files.
        config_hash: see `runs.identity.Identity`.
        metrics: at the epoch of the checkpoint.
        epoch: counted from 0; None for imported weights.
        wall_time_s: training time so far, over all resumed parts.
        degradation: what LR went through besides downscaling; only in exported enhancers.
        source: name of the file that an enhancer of others comes from; its gamma is unknown.
        self_test: only of scorers.
        sha256: hash of everything else and of the weights.
        version: of this format.
    """

    kind: Kind
    net: Annotated[Mapping[str, object], shaped(NetConfig)]
    data: Text
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    config: Config | None = None
    config_hash: Text | None = None
    metrics: dict[Text, float] = Field(default_factory=dict)
    epoch: Annotated[int, Field(ge=0)] | None = None
    wall_time_s: Annotated[float, Field(ge=0)] | None = None
    degradation: Annotated[Degradations, shaped(DEGRADATIONS)] | None = None
    source: Text | None = None
    self_test: SelfTest | None = None
    sha256: str | None = None
    version: int = VERSION

    @classmethod
    def parse(cls, raw: object, where: object) -> Self:
        """Check a record that somebody else may have written.

        Args:
            raw: what stands in the file.
            where: the file, for messages.

        Raises:
            ValueError: in one line, naming the file and the first field that is wrong.
        """
        text = as_json(raw, where)
        if not isinstance(raw, dict):
            raise ValueError(f"{where}: its record is damaged: not a dict")
        version = raw.get("version", 1)
        if isinstance(version, int) and version > VERSION:
            raise ValueError(f"{where}: was written by a newer version of this project")
        try:
            record: Self = TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = printable(".".join(map(str, first["loc"])))
            message = printable(first["msg"])
            raise ValueError(f"{where}: its record is damaged: {place}: {message}") from error
        if record.kind == "enhancer" and record.gamma is None and record.source is None:
            raise ValueError(f"{where}: its record is damaged: gamma: an enhancer has one")
        return replace(record, version=version)

    def plain(self) -> dict[str, object]:
        """Return the record as plain data, as files hold it, without unset fields."""
        needed = ("kind", "net", "data", "gamma")
        fields = asdict(self)
        return {name: v for name, v in fields.items() if v is not None or name in needed}

    @property
    def class_name(self) -> str:
        """Return the class name of the network, without its module; of spandrel's, which one."""
        if self.net["_target_"] == "networks.spandrel_net.SpandrelNet":
            return str(self.net.get("arch"))
        return str(self.net["_target_"]).rpartition(".")[2]

    @property
    def label(self) -> str:
        """Return the name in tables: class and gamma, scale and file, or the scorer's backbone."""
        if self.kind == "scorer":
            return self.backbone
        if self.gamma is None:
            scales = self.net.get("scales", [self.net.get("scale")])
            assert isinstance(scales, list)
            return f"{self.class_name} x{','.join(map(str, scales))} ({self.source})"
        return f"{self.class_name} gamma={self.gamma:g}"

    @property
    def backbone(self) -> str:
        """Return the backbone of a scorer, or the class name of any other network."""
        return str(self.net.get("backbone", self.class_name))

    @property
    def data_config(self) -> dict[str, object]:
        """Return the configuration of the training data; empty if the file lacks it."""
        return dict(present_names((self.config or {}).get("data", {})))

    @property
    def trained_degradation(self) -> Degradations | None:
        """Return what `degradation_summary` says of LR in training; None if unknown."""
        config: Config = self.config or {}
        found = self.degradation or config.get("data", {}).get("degradation")
        return degradation_summary(found) if found else None


def degradation_summary(node: Mapping[str, object]) -> Degradations:
    """Summarize the node `data.degradation` of a configuration, or a summary of it.

    Returns:
        `blur`, `noise` and `jpeg` of LR besides its downscaling; or `tone`, `realistic` or both as
        1, without their many strengths.
    """
    target = str(node.get("_target_"))
    found: Degradations = {}
    if node.get("tone") or target.endswith(".ToneDegradation"):
        found["tone"] = 1
    if node.get("realistic") or node.get("then") or target.endswith(".RealisticDegradation"):
        found["realistic"] = 1
    return found or {name: cast(Amount, node.get(name)) for name in ("blur", "noise", "jpeg")}


def degradation_choice(summary: Degradations) -> str | None:
    """Return the choice `data.degradation=` of a summary; None for simple ones."""
    return "_".join(name for name in ("tone", "realistic") if summary.get(name)) or None


def as_json(raw: object, where: object) -> str:
    """Format a record as JSON with sorted keys, the input of its checksum.

    Raises:
        ValueError: if it is too large, too deep, or holds more than plain data.
    """
    num_values, num_characters = 0, 0
    waiting = [(raw, 0)]
    while waiting:  # a few references to each other can stand for terabytes of JSON
        value, depth = waiting.pop()
        num_values += 1
        if isinstance(value, str):
            num_characters += len(value)
        elif isinstance(value, dict):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            waiting += [(part, depth + 1) for part in value]
        if depth > MAX_DEPTH or len(waiting) > MAX_VALUES or num_values > MAX_VALUES:
            raise ValueError(f"{where}: its record is damaged: nested too deeply, or too large")
        if num_characters > MAX_TEXT:
            raise ValueError(f"{where}: its record is damaged: more than {MAX_TEXT:,} characters")
    try:
        return json.dumps(raw, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: its record is damaged: holds more than plain data") from error
