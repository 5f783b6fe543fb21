"""What a newcomer reads: help that fits 80 columns, and says what counts with these settings."""

import pytest

from cli.command_line import COMMANDS
from cli.help import wrapped
from reports.album import fill_album
from tests.conftest import Cli


@pytest.mark.parametrize("command", COMMANDS)
def test_fits_80_columns_without_losing_words(
    cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = cli(command, "--help").out
    assert max(map(len, out.splitlines())) <= 80
    assert "_self_" not in out
    assert "hydra: " not in out
    assert "  output_dir: outputs " in out
    monkeypatch.setenv("COLUMNS", "120")
    wide = cli(command, "--help").out
    assert out.replace("#", "").split() == wide.replace("#", "").split()


def test_long_words_stay_whole() -> None:
    assert wrapped("# ", "a " + "b" * 100, 80, "# ") == ["# a", "# " + "b" * 100]


def test_values_that_do_not_count_are_marked(cli: Cli) -> None:
    out = cli("net=mdsr", "gamma=0", "--help").out
    marked = [line.split(":")[0].strip(" -") for line in out.splitlines() if "no effect" in line]
    assert marked == ["scorer", "share", "scale"]
    assert "no effect" not in cli("gamma=auto", "--help").out


def test_required_keys_are_marked(cli: Cli) -> None:
    assert "input: ???        # required: a photo" in cli("enhance", "--help").out
    assert "required" not in cli("enhance", "input=a", "--help").out


def test_report_says_how_many_photos_there_can_be(cli: Cli) -> None:
    out = " ".join(cli("report", "--help").out.replace("#", "").split())
    assert "0: none; null: all that the runs kept" in out
    assert fill_album([], None).photos == []
    assert "photos=" not in cli("report", "runs=absent", "photos=null").err
