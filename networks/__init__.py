"""Plain torch.nn networks: no Lightning, no Hydra."""
