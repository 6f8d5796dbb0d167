import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
from scripts import ROOT

from mta_clip.cli import info
from mta_clip.cli.main import COMMANDS, DEPRECATIONS, hide_deprecations, main, user_message
from mta_clip.engine.launch import ProcessError


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main([])
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in shown


def test_every_module_with_a_description_is_a_command():
    modules = (ROOT / "mta_clip" / "cli").glob("*.py")
    assert {path.stem for path in modules if "\nDESCRIPTION = " in path.read_text()} == set(COMMANDS)


def test_an_unknown_command_is_told_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["juggle"])
    assert "invalid choice: 'juggle'" in capsys.readouterr().err


HEAVY = ("cv2", "detectron2", "matplotlib", "scipy", "torch")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_and_imports_nothing_heavy(command):
    code = f"""
        import sys, json
        from mta_clip.cli.main import main
        try:
            main([{command!r}, "--help"])
        except SystemExit:
            print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    *shown, loaded = done.stdout.splitlines()
    assert shown[0].startswith(f"usage: mta-clip {command}") and any(f"  mta-clip {command} " in line for line in shown)
    assert json.loads(loaded) == []


TOLD_AT_ONCE = {
    "info gone": "config file gone does not exist",
    "train": "no config is named",
    "train --config-file gone": "config file gone does not exist",
    "evaluate --weights gone.pth": "checkpoint gone.pth does not exist",
    "predict --weights gone.pth --input a.png --output out": "checkpoint gone.pth does not exist",
    "predict --input a.png --output out": "no model is named",
    "label --config-file gone --input a.png --output out": "mta-clip[scale]",
    "check": "name either a dataset",
    "app --model gone": "gone does not exist",
    "app --model me/streets": "mta-clip[app]",
    "serve --model gone": "gone does not exist",
    "serve --model me/streets": "mta-clip[serve]",
}


def test_what_is_known_without_heavy_libraries_is_told_before_they_are_imported():
    code = f"""
        import json, sys
        for extra in ("gradio", "litserve", "pyarrow"):
            sys.modules[extra] = None
        from mta_clip.cli.main import main
        for command in {list(TOLD_AT_ONCE)}:
            status = main(command.split())
            print(json.dumps([status, [name for name in {HEAVY} if name in sys.modules]]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    said = zip(TOLD_AT_ONCE.values(), done.stderr.splitlines(), done.stdout.splitlines(), strict=True)
    assert [(message in line, json.loads(result)) for message, line, result in said] == [(True, [1, []])] * 12


def of_a_process(message):
    return ProcessError(1, 1, {"message": message, "extraInfo": {"py_callstack": ""}})


MEMORY = "Lower SOLVER.IMS_PER_BATCH or the sizes in INPUT and MODEL, or raise SOLVER.ACCUMULATE"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a wrong value"), "a wrong value"),
        (KeyError("no key 'x'"), "no key 'x'"),
        (FileNotFoundError(2, "No such file", "a.png"), "[Errno 2] No such file: 'a.png'"),
        (of_a_process("CheckpointError: not one"), "process 1: not one"),
        (of_a_process("KeyError: \"no key 'x'\""), "process 1: no key 'x'"),
        (of_a_process("TypeError: a bug"), None),
        (ProcessError(1, -9, "Signal 9"), "process 1 stopped with exit code -9: Signal 9"),
        (MemoryError(), f"memory ran out (MemoryError). {MEMORY}"),
        (of_a_process("MemoryError: 9 GB"), f"process 1: memory ran out (9 GB). {MEMORY}"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "DataLoader worker (pid 7) is killed by signal: Killed. "
            "Perhaps memory ran out: lower DATALOADER.NUM_WORKERS",
        ),
        (RuntimeError("a bug"), None),
    ],
)
def test_messages_of_errors(error, message):
    assert user_message(error) == message


@pytest.fixture
def failing(monkeypatch):
    """Makes `mta-clip info` raise an error."""

    def fail_with(error):
        def run(args):
            raise error

        monkeypatch.setattr(info, "run", run)

    return fail_with


def test_errors_of_the_user_are_messages_unless_debugged(failing, capsys):
    failing(ValueError("a wrong value"))
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "mta-clip info: error: a wrong value\n"
    with pytest.raises(ValueError, match="a wrong value"):
        main(["info", "--debug"])


def test_bugs_keep_their_traceback(failing):
    failing(TypeError("a bug"))
    with pytest.raises(TypeError):
        main(["info"])


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_command_with_one_line(signum, interruptible, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(info, "run", lambda args: os.kill(os.getpid(), signum))
    assert main(["info"]) == 128 + signum
    assert capsys.readouterr().err == f"mta-clip info: stopped by {signum.name}\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_workers_that_are_stopped_say_nothing(monkeypatch, capfd):
    def run(args) -> int:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            pool.apply(abs, (0,))
            pool.apply_async(time.sleep, (600,))
            time.sleep(0.5)
        return 0

    monkeypatch.setattr(info, "run", run)
    assert main(["info"]) == 0
    assert capfd.readouterr().err == ""


def test_deprecations_of_libraries_are_hidden_and_our_warnings_are_not(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error::ImportWarning")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        hide_deprecations()
        for module_name in (*(name for _, name in DEPRECATIONS), "mta_clip.config_loader"):
            warnings.warn_explicit("old", FutureWarning, "file.py", 1, module=module_name, registry={})
    assert len(shown) == 1
    hide_deprecations()
    rules = os.environ["PYTHONWARNINGS"].split(",")
    assert rules == ["error::ImportWarning", *(f"ignore::{kind.__name__}:{name}" for kind, name in DEPRECATIONS)]
