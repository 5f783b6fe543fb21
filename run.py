"""Run a command: python run.py [command] [key=value ...].

Pick the command, check the configuration, and hand over to Hydra. `python run.py --help` lists the
commands; `python run.py COMMAND --help` lists the keys of one.
"""

import gc
import signal
import sys
from pathlib import Path

from system.stopping import FastExit, InterruptHandler, exit_on_signals

IS_COMMAND = __name__ == "__main__" or Path(sys.argv[0]).stem == "nima"
if IS_COMMAND:
    exit_on_signals()  # imports leave nothing to clean up
    gc.disable()  # until the command is checked: a sixth of what imports cost
    ending = FastExit()

from cli import command_line as cli
from sweeps.lifeline import follow_sweep


def main(arguments: list[str]) -> int:
    """Run one command line and return the exit code.

    0 done, 1 failed, 2 wrong input, 128 + its number after a signal.
    """
    follow_sweep()
    stop = InterruptHandler()
    try:
        with stop:
            return cli.run(arguments, stop, Path(__file__).resolve())
    except KeyboardInterrupt:
        stop.report()
        return stop.code
    except BrokenPipeError:  # help, piped into `head`
        return 128 + signal.SIGPIPE


def console() -> None:
    """Run the command line and exit: the entry point of the installed command `nima`."""
    with ending:
        sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    console()
