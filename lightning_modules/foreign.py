"""Networks of files without a record: our own bare weights, and checkpoints of the community."""

from pathlib import Path

from torch import nn

from lightning_modules.building import bounded, build_network
from lightning_modules.record import Record
from networks.bare_weights import own_network
from networks.spandrel_net import recognise
from networks.weights import State, load_weights

TARGET = "networks.spandrel_net.SpandrelNet"


def foreign_enhancer(path: Path, state: State, scale: int | None) -> tuple[nn.Module, Record]:
    """Build the enhancer that weights belong to, as their names and shapes tell.

    Args:
        path: the file, for messages and tables.
        state: its weights.
        scale: for networks of ours whose weights suit any scale.

    Returns:
        The network with its weights, and a record that says which file it comes from.

    Raises:
        ValueError: if the weights are unknown, damaged, or not of an enhancer.
    """
    spec = own_network(state, scale)
    if spec is not None:
        network = build_network(spec, state=state)
        load_weights(network, state, path)
    else:
        with bounded(state):
            network = recognise(state)
        spec = {"_target_": TARGET, **network.arguments}
    return network, Record(
        kind="enhancer", net=spec, data="unknown data", gamma=None, source=path.name
    )
