"""What may go wrong and must not: the cases of the scorecard, run as tests, counted.

    python benchmarks/scorecard.py                what runs in minutes
    python benchmarks/scorecard.py --slow         all of it: 20 kills, 2,000 mutations of each format
    python benchmarks/scorecard.py --case F1      one case
    python benchmarks/scorecard.py --rival        also sentence-transformers with the same kind of input
    python benchmarks/scorecard.py --opening DIR  also what verifying costs, for a model folder with all its files

A case is the tests that carry its mark, `@pytest.mark.scorecard("F1")`. It has 2 points if every
test passed that could run here, 1 if most could not, 0 if one failed, crashed or hung, or if there is none. Tests run
file by file in processes of their own, so that one that kills its process is counted and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOG = "SCORECARD_LOG"
LIMIT_S = 1500
CASES = {
    "H1": "weights that are a pickle, or a pickle under another name",
    "H2": "modules of other classes than sentence-transformers'",
    "H3": "an activation that is any function of torch",
    "H4": "configuration keys that ask for code",
    "H5": "paths of modules, shards and tokenizers that leave the folder",
    "H6": "external data of an ONNX graph outside the folder",
    "H7": "the same in sparse tensors, attributes, subgraphs, functions",
    "H8": "offsets, lengths and keys of external data",
    "H9": "a push that would copy files from outside",
    "H10": "custom operators, EPContext, session options, libraries in the folder",
    "H11": "malformed and huge OpenVINO IR",
    "H12": "malformed safetensors",
    "H13": "JSON bombs, duplicates, NaN, wrong types",
    "H14": "tokenizers with expensive patterns, wrong ids, huge words",
    "H15": "one bit of any file changed",
    "H16": "a token in output, logs, arguments or files",
    "H17": "a Hub that lies, breaks or stalls",
    "H18": "mutations of every format",
    "F1": "killed while converting",
    "F2": "interrupted or terminated, once and twice",
    "F3": "disk full, file limit, read-only, no permission",
    "F4": "two exports into one folder",
    "F5": "an export into a folder that is being served",
    "F6": "a worker killed in a chunk, idle, at the start",
    "F7": "a worker that raises, of every kind",
    "F8": "a worker out of memory",
    "F9": "the parent killed",
    "F10": "two threads or calls on one pool",
    "F11": "a process that forks",
    "F12": "a million rows, a slow consumer",
    "F13": "files cut short, empty, exchanged",
    "F14": "tokenizer, configuration and model that do not match",
    "F15": "weights beside the graph, through every step and links",
    "F16": "impossible and odd texts",
    "F17": "lengths around the limit; rows that are no vectors",
    "F18": "a push that breaks at any byte; actors that die",
}


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--case", action="append", choices=list(CASES), help="only this case; may be repeated")
    made.add_argument("--slow", action="store_true", help="also the tests that take minutes")
    made.add_argument("--rival", action="store_true", help="also sentence-transformers")
    made.add_argument(
        "--opening", type=Path, metavar="DIR", help="also what verifying a folder's files costs"
    )
    made.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    options = made.parse_args(argv)
    file = options.results / "scorecard.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    outcomes = list(run_tests(options.case or [], slow=options.slow))
    cases = {
        case: judged([each for each in outcomes if case in each["cases"]]) for case in options.case or CASES
    }
    if options.case:
        cases = {case: cases.get(case) or old.get("cases", {}).get(case) or judged([]) for case in CASES}
    document = {
        "question": "scorecard",
        "date": time.strftime("%Y-%m-%d"),
        "slow": options.slow,
        "cases": cases,
        "score": sum(each["score"] for each in cases.values()),
        "rival": old.get("rival", {}),
        "opening": old.get("opening", {}),
    }
    if options.rival:
        from rival import run_rival

        document["rival"] = run_rival(options.case or list(CASES))
    if options.opening:
        from opening import measure_opening

        document["opening"] = measure_opening(options.opening)
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for case, each in cases.items():
        failed = f"  {', '.join(each['failed'])}" if each["failed"] else ""
        print(
            f"{case:4} {each['score']}  {each['seconds']:6.1f} s  {each['tests']:3} tests  {CASES[case]}{failed}"
        )
    print(f"{document['score']} of {2 * len(CASES)}")


def judged(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points of a case, and what they come from."""
    ran = [each for each in outcomes if each["outcome"] == "passed"]
    failed = [each["test"] for each in outcomes if each["outcome"] in ("failed", "crashed")]
    skipped = [each["test"] for each in outcomes if each["outcome"] == "skipped"]
    seconds = [each["seconds"] for each in ran]
    return {
        "score": 0 if failed or not ran else 1 if len(skipped) > len(ran) else 2,
        "tests": len(outcomes),
        "failed": failed,
        "skipped": skipped,
        "seconds": round(sum(seconds), 2),
        "median_s": round(statistics.median(seconds), 3) if seconds else None,
    }


def run_tests(cases: Sequence[str], *, slow: bool) -> Iterator[dict[str, Any]]:
    """Run the marked tests, a process per file, and tell of each how it ended."""
    marks = "scorecard" if slow else "scorecard and not slow"
    for file in sorted({*ROOT.glob("tests/**/test_*.py")}):
        if "scorecard(" not in (text := file.read_text(encoding="utf-8")):
            continue
        if cases and not any(f'"{case}"' in text for case in cases):
            continue
        log = Path(os.environ.get("TMPDIR", "/tmp")) / f"scorecard-{os.getpid()}.jsonl"
        log.unlink(missing_ok=True)
        path = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, LOG: str(log), "PYTHONPATH": os.pathsep.join(filter(None, path))}
        environment["SCORECARD_CASES"] = " ".join(cases)
        command = [sys.executable, "-m", "pytest", str(file), "-q", "-n", "0", "-m", marks, "-p", "scorecard"]
        print(f"{file.relative_to(ROOT)} …", file=sys.stderr, flush=True)
        try:
            subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"{file.name} took more than {LIMIT_S} s", file=sys.stderr)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        found: dict[str, dict[str, Any]] = {}
        for line in map(json.loads, lines):  # a test that began and did not end has taken its process with it
            found[line["test"]] = line
        yield from found.values()


# ---- as a plugin of pytest, in the processes that run the tests -----------------------------------------------------


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    wanted = set(os.environ.get("SCORECARD_CASES", "").split())
    if wanted:
        items[:] = [item for item in items if wanted & set(_cases(item))]


def pytest_runtest_logstart(nodeid: str, location: Any) -> None:
    _write({"test": nodeid, "outcome": "crashed", "cases": [], "seconds": 0.0})


def pytest_runtest_setup(item: Any) -> None:
    _write({"test": item.nodeid, "outcome": "crashed", "cases": _cases(item), "seconds": 0.0})


_seen: dict[str, dict[str, Any]] = {}


def pytest_runtest_makereport(item: Any, call: Any) -> None:
    known = _seen.setdefault(
        item.nodeid, {"test": item.nodeid, "outcome": "passed", "cases": _cases(item), "seconds": 0.0}
    )
    if call.when == "call":
        known["seconds"] = round(call.duration, 3)
    if call.excinfo is not None:
        skipped = call.excinfo.typename == "Skipped"
        known["outcome"] = "skipped" if skipped and known["outcome"] == "passed" else "failed"
    if call.when == "teardown":
        _write(known)


def _cases(item: Any) -> list[str]:
    return [str(case) for mark in item.iter_markers("scorecard") for case in mark.args]


def _write(line: Mapping[str, Any]) -> None:
    if path := os.environ.get(LOG):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
