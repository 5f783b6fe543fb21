"""Starts scripts and modules from a process that has imported what takes seconds to import.

Each runs as `__main__` in a fork, with its own arguments, folder, environment and output.
"""

import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

import hydra  # noqa: F401
import lightning  # noqa: F401
import torchvision.transforms.v2  # noqa: F401


def serve(control: socket.socket) -> None:
    """Starts what the tests ask for, until they end; answers with the number of its process."""
    while True:
        message, files, _, _ = socket.recv_fds(control, 1 << 20, 1)
        if not message:
            return
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            number = os.fork()
            if number == 0:
                control.close()
                os.close(reader)
                os.close(writer)
                become(**json.loads(message), output=files[0])
                return
            os.write(writer, str(number).encode())
            os._exit(0)  # so that the command is a child of the tests, which adopt orphans
        os.waitpid(between, 0)
        control.send(os.read(reader, 20))
        for file in (reader, writer, *files):
            os.close(file)


def become(arguments: list[str], folder: str, environment: dict[str, str], output: int) -> None:
    """Runs what follows `python` on a command line in this process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments[0] == "-m":
        sys.path[0] = folder
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
