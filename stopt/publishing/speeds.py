"""How fast files are, as ``stopt bench`` measured them: for the model card, which has no figure that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stopt.artifact import FileRecord
from stopt.card import Speed
from stopt.errors import OptionError
from stopt.folder import read_json_object

__all__ = ["read_speeds"]


def read_speeds(file: Path, records: Mapping[str, FileRecord]) -> dict[str, Speed]:
    """Read what ``stopt bench --format json`` printed.

    Args:
        file: What it printed.
        records: The files that are pushed, whose sizes must be those that were measured.

    Raises:
        OptionError: If it is something else, or of other files.
    """
    document = read_json_object(file)
    try:
        report = document["result"]
        machine = report["machine"]
        tokens = report["tokens"] / report["texts"]
        where = f"{machine['processor']}, {machine['threads']} threads, texts of {tokens:.0f} tokens"
        measured = {
            str(row["file"]): (
                int(row["size_bytes"]),
                Speed(float(row["texts_per_second"]), row["speedup"] and float(row["speedup"]), where),
            )
            # the fastest first; cosines are in float32, so speed is too where that was measured
            for row in sorted(reversed(report["rows"]), key=lambda each: each.get("precision") == "float32")
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise OptionError(
            f"{file} is not what stopt bench prints: {type(error).__name__}: {error}",
            "stopt bench MODEL --format json > FILE",
        ) from error
    found = {}
    for name, record in records.items():
        size = sum(int(part["size_bytes"]) for part in record.parts.values())
        if name in measured:
            if measured[name][0] != size:
                raise OptionError(
                    f"{file} is of another {name}: {measured[name][0]:,} bytes, this one has {size:,}",
                    "measure it again: stopt bench",
                )
            found[name] = measured[name][1]
    if not found:
        raise OptionError(
            f"{file} has no speed of {' or '.join(records)}; it has {', '.join(measured) or 'none'}",
            "measure these: stopt bench --file-name FILE",
        )
    return found
