"""Data sets, degradations and LightningDataModules."""
