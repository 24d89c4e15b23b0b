import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, typer
from deploy.console import run
from deploy.errors import BundleCorrupt, ConfigError
app = typer.Typer()
@app.command()
def command(what: str) -> None:
    if what == "config":
        raise ConfigError("kafka.servers must name a host")
    if what == "bundle":
        raise BundleCorrupt("/b: copy the bundle [again], whole")
    if what == "interrupt":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background may inherit "ignored"
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    if what == "bug":
        raise ZeroDivisionError("a bug")
    print("done")
run(app)
"""


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [("config", 2, "error: kafka.servers must name a host\n"), ("bundle", 1, "error: /b: copy the bundle [again], whole\n")],
)
def test_error_is_one_line_and_exit_code(what: str, code: int, line: str) -> None:
    done = run_program(what)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line)


def test_success_exits_0() -> None:
    done = run_program("nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_ctrl_c_exits_130() -> None:
    done = run_program("interrupt")
    assert done.returncode == 128 + signal.SIGINT
    assert "Traceback" not in done.stderr


def test_wrong_call_exits_2() -> None:
    assert run_program("--no-such-option").returncode == 2


def test_bug_keeps_traceback() -> None:
    done = run_program("bug")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
