"""The settings of a scorer, its library, view and precision: names and types without PyTorch."""

from typing import Literal

ResizeRule = Literal["squash", "short_side", "native"]
ResizeFilter = Literal["bilinear", "nearest"]
Library = Literal["timm"]
Precision = Literal["float32", "bfloat16"]
MAX_VIEW = 4096  # pixels; the first layer takes half a gigabyte for an image of this size
# The arguments of NIMA that determine what it sees of an image.
VIEW_ARGUMENTS = ("resize_rule", "resize_filter", "resize", "crop")
