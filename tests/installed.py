"""Python processes in which packages are really not installed, not merely patched away."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["run_without"]

ROOT = Path(__file__).parents[1]


def run_without(packages: set[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where everything is installed but `packages`.

    Args:
        packages: Names as they are imported; their extension modules and metadata are gone with them.
        folder: Empty folder for links to all that stays installed.
        arguments: Python's own, such as ``-c CODE``.
    """
    for site in dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")):
        for path in Path(site).iterdir():
            name = path.name.partition(".")[0].partition("-")[0]
            if name not in packages and not (folder / path.name).exists() and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    # -S: no site-packages besides
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        cwd=folder,
    )
