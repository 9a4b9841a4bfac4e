"""The files that a model was opened from, as they were then.

Whoever opens them once more, later and maybe in another process, has the same model or an error: a folder into which
somebody has exported again holds another one under the same names. Files are told apart by what the file system says of
them, which costs microseconds; on several machines it takes hashes (:mod:`stopt.scale.cluster`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stopt.certificate import identity
from stopt.errors import ArtifactError, CorruptModel

__all__ = ["OpenedFiles"]

# of an identity: which file it is, its size, and when its content was last changed. Not when its mode, owner or number of
# names was (ctime): a copy made of hard links leaves the model what it is
_CONTENT = slice(1, 4)


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """Files as they were at one moment: before something opened them.

    Attributes:
        root: The model folder, a whole path.
        identities: What the file system said of each file, by its whole path; empty where there was none.
        values: What was read of other files and decides a vector, by what messages call it.
    """

    root: Path
    identities: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def now(cls, root: Path, files: Iterable[Path]) -> OpenedFiles:
        """Note what files are at this moment; links lead to files."""
        paths = dict.fromkeys(file.absolute() for file in files)
        return cls(root.absolute(), {str(path): identity(path) for path in paths})

    def __or__(self, other: OpenedFiles) -> OpenedFiles:
        return replace(
            self,
            identities={**self.identities, **other.identities},
            values={**self.values, **other.values},
        )

    def with_values(self, values: Mapping[str, Any]) -> OpenedFiles:
        """Return a copy with these values, too."""
        return replace(self, values={**self.values, **values})

    def are_same(self) -> bool:
        """Whether they are what they were in every respect, mode and names included: what was verified then holds."""
        return all(identity(Path(path)) == before for path, before in self.identities.items())

    def changed(self) -> list[str]:
        """List those that are other files now, or gone, relative to the model folder."""
        return [
            self._name(path)
            for path, before in self.identities.items()
            if identity(Path(path))[_CONTENT] != before[_CONTENT]
        ]

    def differing(self, others: OpenedFiles) -> list[str]:
        """List what is not the same in both, relative to the model folder."""
        mine, theirs = self.identities, others.identities
        paths = [
            path
            for path in dict.fromkeys((*mine, *theirs))
            if mine.get(path, ())[_CONTENT] != theirs.get(path, ())[_CONTENT]
        ]
        names = dict.fromkeys((*self.values, *others.values))
        values = [name for name in names if self.values.get(name) != others.values.get(name)]
        return [*map(self._name, paths), *values]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """See that they are what they were before the block opens them, and are still when it has.

        An error of the block is replaced by the one which explains it.

        Raises:
            ArtifactError: If they are not; names them.
        """
        self.require_unchanged()
        try:
            yield
        finally:
            self.require_unchanged()

    def require_unchanged(self) -> None:
        """Raise unless they are what they were.

        Raises:
            ArtifactError: If they are not; names them.
        """
        if names := self.changed():
            raise ArtifactError(
                f"the model's files changed since it was opened: {', '.join(names)}",
                "open the model again, and start a new pool of it",
            )

    def require_settled(self) -> None:
        """Raise if somebody changed them while they were opened.

        Raises:
            CorruptModel: If so; names them.
        """
        if names := self.changed():
            raise CorruptModel(
                f"{self.root}: {', '.join(names)} changed while the model was opened",
                "open it again, when nobody writes to it",
            )

    def _name(self, path: str) -> str:
        folder = f"{self.root}{os.sep}"
        return path.removeprefix(folder).replace(os.sep, "/") if path.startswith(folder) else path
