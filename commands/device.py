"""Which device a command computes on."""

import torch


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; other names are torch's.

    Raises:
        ValueError: if torch does not know the name or the machine does not have the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("allowed are auto, cpu, cuda, cuda:N and mps")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device={name}: not to be had here ({reason})") from error
    return device
