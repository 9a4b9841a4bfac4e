"""The Hugging Face Hub: models fetched into its cache, artifacts pushed to it.

The only package that imports ``huggingface_hub``, and only when it is used. What it raises, whatever its version and its
transport, is told as one of stopt's errors; a call that hangs is given up; a token is in no message.
"""

from stopt.hub.download import CODE, CONVERTED, WEIGHTS, Source, cached_as, fetch
from stopt.hub.pushing import Change, Uploaded, next_number, rewrite, upload
from stopt.hub.remote import Content, NotSeen, Repository, open_repository, page

__all__ = [
    "CODE",
    "CONVERTED",
    "WEIGHTS",
    "Change",
    "Content",
    "NotSeen",
    "Repository",
    "Source",
    "Uploaded",
    "cached_as",
    "fetch",
    "next_number",
    "open_repository",
    "page",
    "rewrite",
    "upload",
]
