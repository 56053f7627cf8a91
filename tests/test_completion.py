"""`nas-zoo completion SHELL`: what pressing Tab offers, asked of a real bash."""

import shutil
import subprocess
from pathlib import Path

import pytest
import shtab

from nas_zoo import cli

pytestmark = pytest.mark.slow  # every program is imported for its flags

#: What bash does on Tab, with the words typed so far.
TAB = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_nas_zoo
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["completion", "bash"]) == 0
    file = tmp_path_factory.mktemp("completion") / "nas-zoo"
    file.write_text(said.getvalue())
    return file


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("export", {"export", "export-model"}),
        ("info da2s_i", {"da2s_in1k"}),
        ("draw darts_v2_i", {"darts_v2_in1k"}),
        ("train --model edas_warmup_e", {"edas_warmup_e8_c10"}),
        ("search --weight-dec", {"--weight-decay"}),
        ("gap --data-", {"--data-root"}),
        ("timm --scr", {"--scripts"}),
        ("doctor --mo", {"--models"}),
        ("info nonesuch", {""}),
    ],
)
def test_tab_offers_commands_flags_and_names(typed, offered, script):
    done = subprocess.run(
        ["bash", "-c", TAB, "bash", str(script), "nas-zoo", *typed.split()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert set(done.stdout.split("\n")[:-1]) == offered, done.stderr


def test_every_shell_that_the_library_knows_has_its_script(capsys):
    assert set(cli._SHELLS) == set(shtab.SUPPORTED_SHELLS)
    assert cli.main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef nas-zoo")


def test_every_program_has_a_parser_of_its_own(capsys):
    commands = cli._commands_of(cli.make_parser(whole_programs=True))
    for name in cli.PROGRAMS:
        assert len(commands[name]._actions) > 1, name
