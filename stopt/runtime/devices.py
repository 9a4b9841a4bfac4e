"""What this machine has: processors, their features, and how many of them this process may use."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Machine", "describe_machine"]

# the flags that decide how fast (and how exactly) quantised models run
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as far as inference cares.

    Attributes:
        system: Operating system.
        processor: Model name of the CPU.
        architecture: Such as ``x86_64``.
        cores: Logical cores this process may be scheduled on.
        quota: Cores that a container's CPU quota amounts to; None is no quota.
        features: Instruction sets that matter.
        memory_bytes: Main memory.
    """

    system: str
    processor: str
    architecture: str
    cores: int
    quota: float | None
    features: tuple[str, ...]
    memory_bytes: int | None

    @property
    def threads(self) -> int:
        """Threads that can really run at once: cores, or the quota if that is less."""
        return self.cores if self.quota is None else max(1, min(self.cores, round(self.quota)))

    @property
    def int8_overflows(self) -> bool:
        """Whether engines lose bits of int8 products: x86 without VNNI adds two of them in 16 bits.

        Known on Linux; elsewhere taken for not so.
        """
        return "avx2" in self.features and not _VNNI & {*self.features}


def describe_machine() -> Machine:
    """Look at the machine; reads ``/proc`` and ``/sys`` on Linux."""
    info = _cpu_info()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=info.get("model name") or platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=_quota(),
        features=tuple(feature for feature in _FEATURES if feature in flags),
        memory_bytes=_memory(),
    )


def _cpu_info() -> Mapping[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _quota() -> float | None:
    """Cores granted by a control group, version 2 or 1."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            limit = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if limit == "max" or int(limit) <= 0:
        return None
    return int(limit) / int(period)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
