"""Names of metrics: the baseline of `psnr` is `psnr_bicubic`, at x2 `psnr_bicubic/x2`."""

# What metrics are compared with, by the suffix of the baseline's name.
BASELINES = {
    "constant": "constant predictor",
    "floor": "noise of the votes",
    "bicubic": "bicubic",
    "input": "input",  # at scale 1, where nothing is enlarged
}


def baseline_name(name: str, kind: str) -> str:
    """Return the name of a metric's baseline of a kind, such as `psnr_bicubic/x2` of `psnr/x2`."""
    head, slash, scale = name.partition("/")
    return f"{head}_{kind}{slash}{scale}"


def is_baseline(name: str) -> bool:
    """Return whether a name, without `val/`, is that of a baseline."""
    return name.partition("/")[0].endswith(tuple(f"_{kind}" for kind in BASELINES))
