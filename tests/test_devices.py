"""What the machine has, and how many threads can really run at once."""

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from stopt.runtime.devices import Machine, describe_machine


def test_this_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.system.startswith(platform.system())
    assert machine.architecture == platform.machine()
    assert machine.processor
    assert 1 <= machine.threads <= machine.cores <= (os.cpu_count() or 1)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_what_linux_says_is_read() -> None:
    machine = describe_machine()
    kilobytes = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1])
    assert machine.memory_bytes == pytest.approx(kilobytes * 1024, rel=0.01)
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert all(feature in text.split() for feature in machine.features)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_cores_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert describe_machine().cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.6, 3), (8, 0.2, 1), (2, 16.0, 2), (1, 0.5, 1)],
)
def test_a_quota_limits_threads(cores, quota, threads) -> None:
    machine = Machine("Linux", "cpu", "x86_64", cores, quota, (), None)
    assert machine.threads == threads
    assert replace(machine, quota=None).threads == cores
