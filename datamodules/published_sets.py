"""Sets of rated photos as they are published: files, columns, scale, split, grouping, source.

docs/data.md says which of this has been checked against what. Names of columns count without case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Part = str  # `train`, `validation` or `test`; empty for files of the whole set


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """How a set is published.

    Args:
        title: its name, and that of its folder in `paths.data_dir`.
        tables: the files of ratings by part; of each several, the first that exists is read.
        images: folders of the photos, of which the first that exists is used.
        scale: lowest and highest possible score.
        image: column with the photo's name.
        folder: column with the photo's subfolder.
        votes: columns of votes, from the lowest rating to the highest, evenly spaced.
        mean: column of the mean score, where there are no votes.
        std: column of the standard deviation of the scores.
        num_votes: column with the number of votes, where the votes are shares.
        part_column: column that names the part.
        parts: parts by their names in that column.
        group: column that names what a photo was made from; a random split keeps groups together.
        header: the columns, where the file does not name them; they are separated by spaces then.
        num_photos: of the whole set.
        home: where it is described.
        licence: terms, as far as they are known.
        files: what to put where, for people.
    """

    title: str
    tables: Mapping[Part, tuple[str, ...]]
    images: tuple[str, ...]
    scale: tuple[float, float]
    image: str
    folder: str | None = None
    votes: tuple[str, ...] = ()
    mean: str | None = None
    std: str | None = None
    num_votes: str | None = None
    part_column: str | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    group: str | None = None
    header: tuple[str, ...] = ()
    num_photos: int
    home: str
    licence: str
    files: str

    @property
    def has_split(self) -> bool:
        """Return whether a split is published."""
        return self.part_column is not None or "" not in self.tables


PUBLISHED = {
    "koniq": PublishedSet(
        title="KonIQ-10k",
        tables={"": ("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")},
        images=("1024x768", "512x384"),
        scale=(1, 5),
        image="image_name",
        votes=("c1", "c2", "c3", "c4", "c5"),
        num_votes="c_total",  # the votes are shares in the file that has the split
        part_column="set",
        parts={"training": "train", "validation": "validation", "test": "test"},
        num_photos=10_073,
        home="https://database.mmsp-kn.de/koniq-10k-database.html",
        licence="see the home page; the photos are Creative Commons ones of YFCC100M",
        files="""\
  koniq10k_distributions_sets.csv    github.com/subpic/koniq, in metadata/; has the official split
  1024x768/ or 512x384/              the photos, from the home page""",
    ),
    "spaq": PublishedSet(
        title="SPAQ",
        tables={
            "": (
                "Annotations/MOS and Image attribute scores.xlsx",
                "Annotations/MOS and Image attribute scores.csv",
            )
        },
        images=("TestImage",),
        scale=(0, 100),
        image="Image name",
        mean="MOS",
        num_photos=11_125,
        home="https://github.com/h4nwei/SPAQ",
        licence="not stated for the photos; the code is for education and research",
        files="""\
  Annotations/MOS and Image attribute scores.xlsx    or the same saved as .csv
  TestImage/                                         the photos""",
    ),
    "kadid": PublishedSet(
        title="KADID-10k",
        tables={"": ("dmos.csv",)},
        images=("images",),
        scale=(1, 5),
        image="dist_img",
        mean="dmos",  # the higher, the better, whatever its name says
        std="var",  # of the population, see docs/data.md
        group="ref_img",
        num_photos=10_125,
        home="https://database.mmsp-kn.de/kadid-10k-database.html",
        licence="see the home page",
        files="""\
  dmos.csv
  images/     the photos; the pristine ones among them are not rated""",
    ),
    "aadb": PublishedSet(
        title="AADB",
        tables={
            "train": ("imgListFiles_label/imgListTrainRegression_score.txt",),
            "validation": ("imgListFiles_label/imgListValidationRegression_score.txt",),
            "test": ("imgListFiles_label/imgListTestNewRegression_score.txt",),
        },
        images=("datasetImages_originalSize", "datasetImages_warp256"),
        scale=(0, 1),
        image="image",
        mean="score",
        header=("image", "score"),
        num_photos=9_958,
        home="https://github.com/aimerykong/deepImageAestheticsAnalysis",
        licence="none stated",
        files="""\
  imgListFiles_label/imgList{Train,Validation,TestNew}Regression_score.txt
  datasetImages_originalSize/ or datasetImages_warp256/    the photos""",
    ),
    "para": PublishedSet(
        title="PARA",
        tables={
            "train": ("annotation/PARA-GiaaTrain.csv",),
            "test": ("annotation/PARA-GiaaTest.csv",),
        },
        images=("imgs",),
        scale=(1, 5),
        image="imageName",
        folder="sessionId",
        votes=tuple(f"aestheticScore_{k / 2:.1f}" for k in range(2, 11)),
        num_photos=31_220,
        home="https://cv-datasets.institutecv.com/#/data-sets",
        licence="research and learning only; not commercial, not to be passed on",
        files="""\
  annotation/PARA-GiaaTrain.csv
  annotation/PARA-GiaaTest.csv
  imgs/session<n>/    the photos""",
    ),
    "biq2021": PublishedSet(
        title="BIQ2021",
        tables={"train": ("Train (Images and MOS).csv",), "test": ("Test (Images and MOS).csv",)},
        images=("Images",),
        scale=(0, 1),
        image="Image Name",
        mean="MOS",
        num_photos=12_000,
        home="https://github.com/nisarahmedrana/BIQ2021",
        licence="none stated; treat it as research only",
        files="""\
  Train (Images and MOS).csv
  Test (Images and MOS).csv
  Images/                       the photos""",
    ),
}
