"""python run.py prepare: fetch, verify and pack data sets."""

from collections.abc import Iterator
from typing import Literal

from omegaconf import DictConfig
from pydantic import BaseModel, Field, PositiveInt

from images.finding import is_one_folder, search
from networks.views import ResizeFilter, ResizeRule
from runs.invocation import Invocation


class Options(BaseModel, strict=True):
    """Keys of conf/prepare.yaml."""

    dataset: Literal[
        "div2k", "ava", "photos", "rated", "koniq", "spaq", "kadid", "aadb", "para", "biq2021"
    ]
    root: str | list[str] | None
    images: str | list[str] | None
    ratings: str | None
    download: bool
    keep_archives: bool
    pack: bool
    scales: list[Literal[1, 2, 3, 4]] = Field(min_length=1)
    blur: float = Field(ge=0)
    resize_rule: ResizeRule
    resize_filter: ResizeFilter
    resize: PositiveInt
    crop: PositiveInt
    num_buckets: int = Field(ge=2)
    store: str | None


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    if cfg.dataset in ("photos", "rated") and cfg.root is None:
        yield f"root=null: dataset={cfg.dataset} needs root=FOLDER, the folder of the photos"
    elif cfg.dataset == "photos" or (cfg.dataset == "rated" and not is_one_folder(cfg.root)):
        try:
            search(cfg.root, key="root", results=cfg.dataset == "rated")
        except ValueError as error:
            yield str(error).replace("\n", "\n  ")
    elif not isinstance(cfg.root, str | None):
        yield f"root=[{','.join(cfg.root)}]: dataset={cfg.dataset} needs a single folder"
    if cfg.dataset in ("div2k", "photos", "rated") and cfg.images is not None:
        yield (
            f"images={cfg.images}: only AVA and other published rated sets use it; root= sets the "
            "folder of the photos"
        )
    if cfg.dataset == "rated" and cfg.ratings is None:
        yield "ratings=null: dataset=rated needs ratings=FILE, the table"


def run(cfg: DictConfig, _: Invocation) -> None:
    """Prepare the data set; exit with 1 if files are bad."""
    from datamodules.preparing import prepare

    prepare(cfg)
