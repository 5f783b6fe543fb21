"""Compile networks in place, so that checkpoints keep their keys."""

from torch import nn

WITH_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile with CUDA graphs
MODES = ("default", *WITH_GRAPHS, "max-autotune-no-cudagraphs")


def compile_in_place(wanted: bool | str, *parts: nn.Module | None) -> None:
    """Compile calls of modules by `torch.compile`; their `forward` stays uncompiled.

    Each new shape is compiled separately, so this is meant for training, where batches have few.

    Args:
        wanted: False does nothing; True is the mode `default`; or one of `MODES`, of which
            `reduce-overhead` replays CUDA graphs.
        parts: the modules; None is skipped.

    Raises:
        ValueError: if the mode is unknown.
    """
    if wanted is False:
        return
    mode = "default" if wanted is True else wanted
    if mode not in MODES:
        raise ValueError(f"model.compile={mode}: true, false, or one of {', '.join(MODES)}")
    for part in parts:
        if part is not None:
            part.compile(mode=mode, dynamic=False)
