"""The two kinds of networks that are trained, as checkpoints and run folders name them."""

from typing import Literal

Kind = Literal["enhancer", "scorer"]
