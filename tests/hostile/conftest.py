"""A harmless model, and checks that every hostile case shares."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from victim import SECRET, build
from watched import Report

PROMISED_RSS = 300_000_000  # bytes, the scorecard's limit for a refusal; the libraries take half of it


@pytest.fixture(scope="session")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the hostile ones differ from. Not to be changed."""
    return build(tmp_path_factory.mktemp("harmless") / "model")


Refused = Callable[..., None]


@pytest.fixture
def refused() -> Refused:
    """Check that a folder was refused as promised: typed, in words, at once, with nothing done."""

    def check(report: Report, folder: Path, *errors: str, match: str = "", seconds: float = 1.0) -> None:
        assert report.error in errors, report
        assert report.code == 4, report
        assert report.hint, report
        assert str(folder) in report.message or "model.onnx" in report.message or ".bin" in report.message, (
            report
        )
        assert match in report.message, report
        assert len(report.message) < 1500
        assert report.seconds < seconds
        assert report.rss < PROMISED_RSS
        assert SECRET.decode() not in report.message
        assert not report.of(
            "os.exec", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"
        ), report
        inside = os.path.realpath(folder)
        data = {path for path in report.opened() if not path.endswith((".py", ".pyc", ".so", ".pyd"))}
        outside = {path for path in data if not path.startswith(inside + os.sep)}
        assert not {path for path in outside if path.startswith(("/etc", str(Path(inside).parent)))}, outside

    return check
