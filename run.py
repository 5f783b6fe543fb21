"""The only entry point: python run.py [command] [key=value ...].

Picks the command, checks the configuration, hands over to Hydra. `python run.py --help` lists the
commands; `python run.py COMMAND --help` says what can be set.
"""

import dataclasses
import signal
import sys
from pathlib import Path

INTERRUPT = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and INTERRUPT is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # imports have nothing to tidy up

import hydra
from hydra.errors import HydraException

from commands import cli, config
from commands.jobs import follow_sweep
from commands.resume import with_stored_options

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Runs one command line and returns the exit code: 0 done, 1 failed, 2 wrong input."""
    follow_sweep()
    signal.signal(signal.SIGINT, INTERRUPT)
    try:
        call = cli.parse(arguments)
        if call.help:
            print(cli.help_text(call.command))
            return 0
        if call.command == "train" and not call.is_multirun:
            call = dataclasses.replace(call, overrides=with_stored_options(call.overrides))
        if call.is_plain:
            config.check(call.command, call.overrides, multirun=call.is_multirun)
    except (ValueError, HydraException) as error:
        return cli.refuse(error)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    # Ranks that Lightning starts repeat sys.argv; `train` is what runs without a command.
    sys.argv = [str(ROOT / "run.py"), *call.flags, *call.overrides]
    run = hydra.main(version_base="1.3", config_path=str(config.CONF), config_name=call.command)
    run(cli.job(call.command))()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
