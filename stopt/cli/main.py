"""The ``stopt`` command: wiring, and the one place where errors become messages and exit codes.

Exit codes: 0 done · 1 a failure that a user can meet · 2 usage · 3 parity below the threshold · 4 untrusted or corrupt
input · 130 interrupted, 143 terminated. Anything else is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import io
import signal
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from stopt import __version__
from stopt.cli.bench import bench
from stopt.cli.calibrate import calibrate
from stopt.cli.check import check
from stopt.cli.demo import demo
from stopt.cli.doctor import doctor
from stopt.cli.encode import encode
from stopt.cli.export import export
from stopt.cli.index import index
from stopt.cli.inspect import inspect
from stopt.cli.optimize import optimize
from stopt.cli.options import OUTPUT_KEY
from stopt.cli.output import Output, debugging
from stopt.cli.push import push
from stopt.cli.quantize import quantize
from stopt.cli.run import run
from stopt.cli.search import search
from stopt.cli.sign import sign
from stopt.cli.verify import verify
from stopt.errors import StoptError, StoptWarning
from stopt.interrupts import import_uninterrupted, leave_to_system

__all__ = ["cli", "main"]

_INTERRUPTED = 130
_TERMINATED = 143
_VERSIONED = ("onnxruntime", "openvino", "torch", "transformers", "optimum", "nncf")


class _Boundary(click.Group):
    """A group that turns known errors into a message, a hint and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of use, not of the alphabet

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                # whatever PYTHONWARNINGS says, and each time: what is warned of may be code that is about to run
                warnings.simplefilter("always", StoptWarning)
                return super().invoke(ctx)
        except StoptError as error:
            if debugging():
                raise
            ctx.meta.get(OUTPUT_KEY, Output()).error(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print our warnings like a message; those of other packages are noise to a user of the command."""
    if issubclass(category, StoptWarning):
        Output().warning(str(message))


def _print_versions(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    lines = [f"stopt {__version__}"]
    for package in _VERSIONED:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} not installed")
    click.echo("\n".join(lines))
    context.exit()


@click.group(
    cls=_Boundary, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show versions and exit.",
)
def cli() -> None:
    """Export sentence-transformers models to fast, checked files, and serve them.

    MODEL is a model folder, or a Hub id: organisation/name[@revision].

    \b
    Example:
      stopt demo
      stopt export ./my-model --backend onnx --backend openvino
      stopt check ./my-model
      echo "some text" | stopt encode ./my-model
    """


for _command in (
    export,
    optimize,
    quantize,
    run,
    check,
    verify,
    sign,
    bench,
    push,
    inspect,
    calibrate,
    encode,
    index,
    search,
    doctor,
    demo,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the ``stopt`` command."""
    # a polite kill unwinds like an interrupt, so that nothing half-made is left behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    import_uninterrupted()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where the locale has no such letter
    try:
        try:
            cli(prog_name="stopt")
        finally:
            leave_to_system()
    except KeyboardInterrupt:  # one that came just before signals were the system's
        leave_to_system()
        sys.exit(_INTERRUPTED)
