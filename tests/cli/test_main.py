"""The group: help, versions, and how errors, warnings and interrupts reach the user."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stopt import errors
from stopt.cli import options
from stopt.cli.main import cli
from stopt.cli.output import Output

COMMANDS = sorted(cli.commands)
HEAVY = {
    "numpy",
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "optimum",
    "huggingface_hub",
    "tokenizers",
}
ERRORS = {
    errors.StoptError("it broke", "mend it"): 1,
    errors.SourceError("it broke", "mend it"): 1,
    errors.UnsupportedModel("m", ["it broke"], "mend it"): 1,
    errors.OptionError("it broke", "mend it"): 1,
    errors.InputError("it broke", "mend it", index=3): 1,
    errors.ArtifactError("it broke", "mend it"): 1,
    errors.ConversionError("it broke", "mend it"): 1,
    errors.PushError("it broke", "mend it"): 1,
    errors.WorkerError("it broke", "mend it"): 1,
    errors.ForkError("it broke", "mend it"): 1,
    errors.VectorError("it broke", "mend it", rows=[3]): 1,
    errors.MissingExtra("it broke: torch", "torch"): 1,
    errors.ParityError("it broke", "mend it", None): 3,
    errors.SpaceError("it broke", "mend it"): 3,
    errors.UntrustedModel("it broke", "mend it"): 4,
    errors.CorruptModel("it broke", "mend it"): 4,
    errors.ResourceLimitError("it is too large", "use less"): 4,
}


def raising(error: BaseException) -> click.Group:
    """The group of the real command, with one command that raises."""
    group = type(cli)("stopt")

    @group.command("break")
    @options.output_options
    def break_(out: Output) -> None:
        raise error

    return group


# ---- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_in_the_order_of_use(run, flag) -> None:
    result = run(flag)
    assert result.exit_code == 0
    listed = re.findall(r"^  (\w+) ", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == ["export", "check", "inspect", "encode", "doctor", "demo"] or set(listed) >= set(
        COMMANDS
    )
    assert "Example:" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself(run, name, flag) -> None:
    result = run(name, flag)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: stopt {name} ")
    assert re.search(rf"Example:\n(?: +\S.*\n)*? +stopt {name}\b", result.stdout)
    assert not result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_first_line_of_help_is_a_short_sentence(name) -> None:
    first = (cli.commands[name].help or "").splitlines()[0]
    assert re.fullmatch(r"[A-Z][a-z]+ .+\.", first)
    assert len(first) <= 60


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name) -> None:
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_an_option_means_the_same_in_every_command() -> None:
    seen: dict[str, tuple[str, str | None]] = {}
    # what a command reads, opens, makes, pushes to or signs with differs, and so does what it makes ranges of
    ours = {
        "backend",
        "certificate",
        "column",
        "engine",
        "file-name",
        "from",
        "key",
        "model",
        "output",
        "percentile",
        "revision",
        "texts",
    }
    for name in COMMANDS:
        for parameter in cli.commands[name].params:
            if isinstance(parameter, click.Option) and not ours & {o.lstrip("-") for o in parameter.opts}:
                for spelling in parameter.opts:
                    other, help_text = seen.setdefault(spelling, (name, parameter.help))
                    assert help_text == parameter.help, f"{spelling} in {other} and {name}"


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv = ['stopt', '--help']\n"
        "from stopt.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_version_names_the_engines(run) -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("stopt 0.")
    for package in ("onnxruntime", "openvino", "torch"):
        assert re.search(rf"^{package} (\d|not installed)", result.stdout, re.MULTILINE)


# ---- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["expotr"], "Did you mean 'export'?"),
        (["export"], "Missing argument 'MODEL'"),
        (["export", "m", "--bakend", "onnx"], "--backend"),
        (["export", "m", "--backend", "tensorrt"], "'tensorrt' is not one of 'onnx', 'openvino'"),
        (["check", "m", "--min-cosine", "2"], "--min-cosine"),
        (["check", "m", "--max-abs", "-1"], "--max-abs"),
        (["check", "m", "--dtype", "float64"], "--dtype"),
        (["encode", "m", "--batch-size", "0"], "--batch-size"),
        (["encode", "m", "--precision", "int4"], "--precision"),
        (["inspect", "m", "--format", "xml"], "'xml' is not one of 'human', 'json', 'quiet'"),
        ([], "Usage: stopt"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(run, args, message) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert not result.stdout
    assert message in result.stderr


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_every_error_class_is_tried_here() -> None:
    classes = {getattr(errors, name) for name in errors.__all__ if name not in ("StoptWarning", "suggest")}
    assert {type(error) for error in ERRORS} == classes


@pytest.mark.parametrize(("error", "code"), ERRORS.items(), ids=lambda value: type(value).__name__)
def test_an_error_is_a_message_a_hint_and_an_exit_code(error, code) -> None:
    result = CliRunner().invoke(raising(error), ["break"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"Error: {error.message}\nHint: {error.hint}\n"


def test_an_error_without_a_hint_has_no_hint_line() -> None:
    assert CliRunner().invoke(raising(errors.SourceError("gone")), ["break"]).stderr == "Error: gone\n"


@pytest.mark.parametrize(("error", "code"), ERRORS.items(), ids=lambda value: type(value).__name__)
def test_an_error_is_one_json_document(error, code, one_document) -> None:
    result = CliRunner().invoke(raising(error), ["break", "--format", "json"])
    assert result.exit_code == code
    assert one_document(result) == {
        "schema": 1,
        "ok": False,
        "error": {"type": type(error).__name__, "message": error.message, "hint": error.hint},
    }
    assert result.stderr.startswith("Error: ")


def test_quiet_errors_still_say_what_happened() -> None:
    result = CliRunner().invoke(raising(errors.SourceError("gone", "look elsewhere")), ["break", "-q"])
    assert (result.stdout, result.stderr) == ("", "Error: gone\nHint: look elsewhere\n")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debugging_shows_the_traceback_of_known_errors(value, shown) -> None:
    environment = {**os.environ, "STOPT_DEBUG": value}
    done = subprocess.run(
        [sys.executable, "-m", "stopt", "inspect", "./nowhere"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) is shown
    assert "./nowhere does not exist" in done.stderr


def test_a_bug_is_not_dressed_up() -> None:
    result = CliRunner().invoke(raising(ZeroDivisionError("ours")), ["break"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_ends_with_130() -> None:
    result = CliRunner().invoke(raising(KeyboardInterrupt()), ["break"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_without_a_traceback(served: Path, number, code) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stopt", "encode", str(served)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert process.stderr is not None
    # it waits for stdin once its last import is done
    while b"stopt.reading" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    time.sleep(0.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"Traceback" not in said


# ---- warnings -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_our_warnings_are_messages(run, served: Path) -> None:
    result = run("encode", served, "--prompt", "a", "--prompt-name", "query", input="one\ntwo\n")
    assert result.exit_code == 0
    assert re.search(r"^Warning: both prompt and prompt_name given", result.stderr, re.MULTILINE)
    assert ".py" not in result.stderr


@pytest.mark.filterwarnings("default")
def test_warnings_of_others_are_not_shown() -> None:
    import warnings

    group = type(cli)("stopt")

    @group.command("noisy")
    def noisy() -> None:
        warnings.warn("of another package", UserWarning, stacklevel=1)
        warnings.warn("of ours", errors.StoptWarning, stacklevel=1)

    before = warnings.showwarning
    assert CliRunner().invoke(group, ["noisy"]).stderr == "Warning: of ours\n"
    assert warnings.showwarning is before
