"""The Ray cluster of a job: found and connected to, or started on this machine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

from stopt.errors import MissingExtra, OptionError
from stopt.scale.job import EncodeJob
from stopt.scale.sources import STDIN

__all__ = ["RayCluster", "connected", "require_cluster"]

ANSWER_S = 5.0  # for an address to answer

# RFC 9113: what a client says first, with a SETTINGS frame that has none; and the frame that a server answers with
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_FRAME_HEAD, _SETTINGS = 9, 4


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A cluster, and what of it a job takes.

    Attributes:
        actors: Actors that encode.
        cpus: Processors of each.
        gpus: GPUs of each.
    """

    actors: int
    cpus: int
    gpus: int


@contextmanager
def connected(job: EncodeJob) -> Iterator[RayCluster]:
    """Connect to a cluster, or start one.

    Raises:
        MissingExtra: If Ray is not installed.
        OptionError: If there is no cluster at the address, or the job cannot be done by one.
    """
    if find_spec("ray") is None:
        raise MissingExtra("ray", "ray")
    if Path(str(job.inputs[0])) == STDIN:
        raise OptionError(
            "standard input cannot be read by a cluster", "name files that all its machines see"
        )
    import ray

    own = not ray.is_initialized()
    if own:
        where: dict[str, Any] = {"address": job.ray_address}
        if job.ray_address is None:
            where = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        else:
            require_cluster(job.ray_address)
        # for the cluster's processes and this one; errors reach us as such
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            with _without_greeting():
                ray.init(**where, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"Ray cannot connect to {job.ray_address or 'a cluster of this machine'}: {_first_line(error)}",
                "start one: ray start --head; all its machines and this one have the same versions of Ray and Python",
            ) from error
    try:
        yield _share_of(job, ray.cluster_resources())
    finally:
        if own:
            ray.shutdown()


def _share_of(job: EncodeJob, resources: Mapping[str, float]) -> RayCluster:
    """What a job takes of a cluster: as many actors as fit, with one processor each, unless it says otherwise."""
    cpus = job.model.threads or 1
    gpus = int(any((device or "").startswith("cuda") for device in job.model.devices))
    room = resources.get("CPU", 0) // cpus
    if gpus:
        room = min(room, resources.get("GPU", 0))
    actors = job.workers or int(room)
    if actors < 1 or actors > room:
        raise OptionError(
            f"the cluster has room for {int(room)} actors of {cpus} processors{' and a GPU' if gpus else ''}, "
            f"and the job wants {max(1, actors)}",
            "ask for fewer: --workers, --threads",
        )
    return RayCluster(actors, cpus, gpus)


def require_cluster(address: str) -> None:
    """Make sure that something answers at an address as a Ray cluster does; Ray itself tries for minutes, and then exits.

    Args:
        address: ``host:port`` or ``[IPv6]:port``, with or without ``ray://``; ``auto`` and ``local`` are Ray's to find.

    Raises:
        OptionError: If it is no address, or nothing answers.
    """
    if address in ("auto", "local"):
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
    except ValueError:  # a port that is no number
        host = port = None
    if not host or not port or place.scheme not in ("", "ray"):
        raise OptionError(
            f"{address!r} is no address of a Ray cluster",
            "the host and port of its head, such as 10.0.0.1:6379; or auto, for one that runs on this machine",
        )
    try:
        _greet(host, port)
    except OSError as error:
        raise OptionError(
            f"there is no Ray cluster at {address}: {error.strerror or error or 'no answer'}",
            "start one: ray start --head; its port, 6379 by default, must be reachable from here",
        ) from error


def _greet(host: str, port: int) -> None:
    """Open an HTTP/2 connection, which is what Ray's head and its client server speak.

    Raises:
        OSError: If nobody is there, or answers in another way or not at all.
    """
    with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
        connection.sendall(_HTTP2_PREFACE)
        answer = b""
        while len(answer) < _FRAME_HEAD:
            if not (more := connection.recv(_FRAME_HEAD - len(answer))):
                raise ConnectionError("what is there closed the connection")
            answer += more
    if answer[3] != _SETTINGS:
        raise ConnectionError("what is there is something else")


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keep the line off stderr with which Ray's native code says that it has been told to say nothing."""
    sys.stderr.flush()
    kept = os.dup(2)
    with TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
