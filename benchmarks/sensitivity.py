"""How easily small changes of the pixels please scorers, and how well they rate photos.

    python benchmarks/sensitivity.py OASIS_FOLDER CHECKPOINT [CHECKPOINT ...] [--output FILE.md]

On the test photos of fold 1 (`oasis_folds/fold_1.txt`), seen by each scorer's own rule and as the
centre of the photo at full resolution: SRCC with people's mean ratings, root mean square of the
norm of the score's gradient to pixels in [0, 1], and what one grey level of 255 at every pixel, in
the direction that pleases most, adds to the score.
"""

from pathlib import Path

import torch
from report import command_line, heading, publish, skip
from scipy.stats import spearmanr
from torch import Tensor

from datamodules.ratings_table import read_ratings
from images.pixels import to_unit
from images.reading import read_image
from lightning_modules.checkpoint import load_scorer
from networks.nima import NIMA, inference_copy, mean_score

FOLD = Path(__file__).resolve().parent / "oasis_folds" / "fold_1.txt"
BATCH = 16


def main() -> None:
    """Measures every checkpoint."""
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="required without --short")
    parser.add_argument("checkpoints", nargs="*")
    options = parser.parse_args()
    if options.short:
        skip("needs the photos of OASIS and trained scorers", options.json)
    if not options.checkpoints:
        parser.error("the folder of OASIS and a checkpoint are needed")
    ratings = read_ratings(options.folder / "ratings.csv", 7)
    true = dict(
        zip(ratings.names, mean_score(torch.from_numpy(ratings.p_NK)).tolist(), strict=True)
    )
    names = FOLD.read_text().split()
    photos = [to_unit(read_image(options.folder / "images" / name))[None] for name in names]
    lines = heading("Sensitivity of scorers", "test photos of fold 1 of OASIS")
    lines += ["| scorer | view | SRCC | spread of scores | gradient | one grey level adds |"]
    lines += ["|---|---|---|---|---|---|"]
    for checkpoint in options.checkpoints:
        scorer = load_scorer(checkpoint)
        views = {
            "own rule": torch.cat([scorer.prepare(photo) for photo in photos]),
            "full resolution": torch.cat([centre(photo, scorer.crop) for photo in photos]),
        }
        for view, images_NCHW in views.items():
            score_N, norm_N, gain_N = sensitivity(inference_copy(scorer), images_NCHW)
            srcc = spearmanr(score_N, [true[name] for name in names])[0]
            numbers = (score_N.std(), norm_N.square().mean().sqrt(), gain_N.mean())
            cells = [f"{srcc:.3f}", *(f"{number:.2f}" for number in numbers)]
            lines.append(f"| {checkpoint} | {view} | {' | '.join(cells)} |")
    publish(lines, options.output)


def centre(photo: Tensor, side: int) -> Tensor:
    """The middle of a photo."""
    top, left = ((length - side) // 2 for length in photo.shape[-2:])
    return photo[..., top : top + side, left : left + side]


def sensitivity(scorer: NIMA, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, norms of their gradients, and what one grey level can add to them."""
    scores, norms, gains = [], [], []
    for images in torch.split(images_NCHW, BATCH):
        images = images.clone().requires_grad_()
        score = mean_score(scorer(images))
        (gradient,) = torch.autograd.grad(score.sum(), images)
        with torch.no_grad():
            pleased = mean_score(scorer((images + gradient.sign() / 255).clamp(0, 1)))
        scores.append(score.detach())
        norms.append(gradient.flatten(1).norm(dim=1))
        gains.append(pleased - score.detach())
    return torch.cat(scores), torch.cat(norms), torch.cat(gains)


if __name__ == "__main__":
    main()
