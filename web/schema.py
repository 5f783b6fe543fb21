"""Types of the HTTP API, from which FastAPI generates the OpenAPI description."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

State = Literal["waiting", "working", "done", "cancelled", "failed", "interrupted"]
Ids = Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=100)]


class Exact(BaseModel, extra="forbid"):
    """Base class of answers, which have exactly the declared keys."""


class Model(Exact):
    """Network, or a series of networks between two trainings."""

    id: str
    name: str
    note: str = Field(description="size and training data")
    seconds: float | None = Field(
        description="estimate for a photo of 1000 x 1000 pixels; null until measured"
    )
    margin: int | None = Field(
        description="pixels around a tile that the network reads too; null if it takes no tiles"
    )
    gammas: list[float] | None = Field(description="of a series of networks; null for a single one")


class OfferedTask(Exact):
    """Task, with the models for it."""

    task: str = Field(description="super-resolution, deblurring, restoration or tone")
    scale: int = Field(description="1: the same size")
    label: str
    models: list[Model]


class UploadedPhoto(Exact):
    """Photo waiting for a job; width and height are those of the upright photo."""

    id: str
    name: str
    width: int
    height: int
    megapixels: float


class JobRequest(BaseModel):
    """Photos to enhance, or only to score."""

    photos: Ids = Field(description="ids of uploads")
    task: str = Field(
        "super-resolution", max_length=50, description="a task listed by GET /models, or score"
    )
    scale: int = Field(2, ge=1, le=64, description="no effect with task=score")
    models: Ids | None = Field(
        default=None, description="ids listed by GET /models; null: the first for the task"
    )


class StartedJob(Exact):
    """Address of a job's results; anyone who knows the token can see and delete them."""

    token: str
    url: str


class Score(Exact):
    """Predicted rating distribution of a picture."""

    mean: float
    std: float
    p: list[float] = Field(description="probability of each rating, from 1")


class Version(Exact):
    """Picture made from a photo: the original, bicubic, or a model's output."""

    id: str
    name: str
    kind: Literal["original", "bicubic", "model"]
    file: str = Field(description="PNG; GET /results/TOKEN/FILE")
    width: int
    height: int
    view: str = Field(description="a smaller PNG if the file is too large for a page")
    view_width: int
    view_height: int
    thumb: str | None = Field(
        default=None, description="the middle of the picture at 160 x 160 pixels, WebP"
    )
    bytes: int
    seconds: float | None = Field(default=None, description="computing time of the network")
    series: str | None = Field(
        default=None, description="id of the series of networks that it belongs to"
    )
    gamma: float | None = None
    score: Score | None = Field(description="null if the scorer cannot rate the picture")


class PhotoResult(Exact):
    """Photo, with all versions made from it so far."""

    name: str
    error: str | None = None
    width: int | None = None
    height: int | None = None
    versions: list[Version] = []


class ScorerFacts(Exact):
    """Network that scores the pictures."""

    name: str
    trained_on: str
    buckets: int = Field(description="the highest rating")


class JobResult(Exact):
    """State of a job, its files and its scores."""

    token: str
    state: State = "waiting"
    error: str | None = None
    created: AwareDatetime
    expires: AwareDatetime
    progress: float = Field(default=0.0, description="0 to 1")
    seconds_left: float | None = None
    now: str = Field(default="", description="what is being computed")
    waiting: int | None = Field(default=None, description="number of jobs ahead, while waiting")
    task: str | None = Field(description="null: score only")
    scale: int
    label: str
    device: str
    scorer: ScorerFacts
    photos: list[PhotoResult] = []


class Refusal(Exact):
    """Error: the answer to a request that was refused or failed."""

    error: str = Field(description="one sentence")
