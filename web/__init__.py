"""The page of `python run.py serve`: upload, enhance, score, compare."""
