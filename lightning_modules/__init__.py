"""LightningModules, losses, metrics, callbacks and checkpoints."""
