"""Networks in plain PyTorch, without Lightning or Hydra."""
