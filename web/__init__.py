"""Web page of `python run.py serve`: upload, enhance, score and compare photos."""
