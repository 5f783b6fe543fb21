"""Find, read and write image files, with their metadata."""
