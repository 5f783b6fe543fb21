"""Networks in plain PyTorch, without Lightning or Hydra."""

KERAS_SUFFIXES = (".h5", ".hdf5")
