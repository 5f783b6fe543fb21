"""Image files and pixels: reading, writing, finding, metadata."""
