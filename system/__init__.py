"""What everything stands on: files, worker processes, progress, the terminal."""
