"""The only entry point: python run.py [command] [key=value ...].

Picks the command, checks the configuration, hands over to Hydra. `python run.py --help` lists the
commands; `python run.py COMMAND --help` says what can be set.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from types import FrameType


def leave(number: int, frame: FrameType | None) -> None:
    """End at once: imports have nothing to tidy up."""
    os.write(2, b"\ninterrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    for stops in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stops) != signal.SIG_IGN:  # as nohup and shells in scripts have it
            signal.signal(stops, leave)

import hydra
from hydra.errors import HydraException

from commands import cli
from commands.composing import CONF
from commands.jobs import follow_sweep
from commands.resume import with_stored_options
from commands.stopping import Stop

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run one command line and return the exit code.

    0 done, 1 failed, 2 wrong input, 128 + its number after a signal.
    """
    follow_sweep()
    with Stop() as stop:
        try:
            return run_command(arguments, stop)
        except KeyboardInterrupt:
            stop.farewell()
            return stop.code


def run_command(arguments: list[str], stop: Stop) -> int:
    """Run one command line and return the exit code."""
    try:
        call = cli.parse(arguments)
        if call.help:
            print(cli.help_text(call))
            return 0
        if call.command == "train" and not call.is_multirun:
            call = dataclasses.replace(call, overrides=with_stored_options(call.overrides))
        call.check()
    except (ValueError, HydraException) as error:
        return cli.refuse(error)
    if call.command == "serve":
        stop.leave_to_others()  # to uvicorn, which ends in order
    # Ranks that Lightning starts repeat sys.argv; `train` is what runs without a command.
    sys.argv = [str(ROOT / "run.py"), *call.flags, *call.overrides]
    run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=call.command)
    run(cli.job(call.command, stop))()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
