"""LightningDataModules and the image mathematics below them."""
