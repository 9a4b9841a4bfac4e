"""Corpora of any size: read, encoded and written piece by piece, in one process, several, or on a Ray cluster.

A job is cut into shards by the numbers of its rows alone, so that a shard's bytes do not depend on who made it, or on what
was made before an interruption.
"""

from stopt.scale.corpus import Report, Results, encode_corpus, stream
from stopt.scale.job import EncodeJob, Engine, Format, ModelOptions, OnError
from stopt.scale.making import Progress

__all__ = [
    "EncodeJob",
    "Engine",
    "Format",
    "ModelOptions",
    "OnError",
    "Progress",
    "Report",
    "Results",
    "encode_corpus",
    "stream",
]
