"""Services of the operating system: files, devices, signals, worker processes, the terminal."""
