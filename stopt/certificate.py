"""A model folder held against its manifest: whole, for ``stopt verify``, and file by file while it is opened.

Opening verifies what it reads. Small files are hashed before they are read. Large ones are hashed in a thread while the
engine opens them, and nothing is served before their hash is known: :class:`Seal` also sees to it that what was hashed
is what the engine read, by what the file system says of each file and of the folders on the way to it, before and
after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stopt.artifact import MANIFEST, Manifest, sha256
from stopt.errors import CorruptModel
from stopt.folder import contained

__all__ = ["ADDED_LATER", "Difference", "Seal", "Verdict", "examine", "identity"]

# what stopt itself puts into a model folder after it was converted: the ranges of `stopt calibrate`
ADDED_LATER = frozenset({"embedding_ranges.json"})
LARGE_BYTES = 4 * 2**20  # hashed in 3 ms; what is larger is hashed beside the engine's own work
_DOCUMENTS = (".md", ".png", ".jpg", ".svg", ".sig", ".pdf")  # nothing that a vector depends on


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that is not what the manifest says.

    Attributes:
        file: Its path, relative to the model folder.
        expected: sha256 in the manifest.
        found: sha256 of the file; None if it is missing.
    """

    file: str
    expected: str
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.file} is missing"
        return f"{self.file} has changed: sha256 {self.found[:12]}…, recorded {self.expected[:12]}…"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holding a folder against its manifest found.

    Attributes:
        verified: Files that are as recorded.
        differences: Files that are not, or are missing.
        unknown: Files that the manifest does not name and that a program could read; documents are left out.
    """

    verified: tuple[str, ...]
    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]

    def failure(self, root: Path, *, strict: bool = False) -> CorruptModel | None:
        """Return the error that names what is wrong; None if nothing is.

        Args:
            root: The model folder.
            strict: Whether unknown files are wrong too.
        """
        wrong = [str(each) for each in self.differences]
        wrong += [f"{name} is not in {MANIFEST}" for name in self.unknown] if strict else []
        return CorruptModel(f"{root}: {'; '.join(wrong)}", _REMEDY) if wrong else None


_REMEDY = (
    "fetch the model again; if the change is meant, convert it again with `stopt export --force`, or open it with "
    "verify=False"
)


def examine(root: Path, manifest: Manifest) -> Verdict:
    """Hash every file of a folder that its manifest names, and look for others."""
    verified, differences = [], []
    # code that a conversion ran need not be here: what serves its files has no use for it
    code = {name: part for name, part in manifest.code.items() if contained(root, name).is_file()}
    expected = {**code, **manifest.listed}
    for name, part in sorted(expected.items()):
        path = contained(root, name)
        found = sha256(path) if path.is_file() else None
        if found == part["sha256"]:
            verified.append(name)
        else:
            differences.append(Difference(name, str(part["sha256"]), found))
    names = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file())
    unknown = [name for name in names if name not in expected and _matters(name)]
    return Verdict(tuple(verified), tuple(differences), tuple(unknown))


def _matters(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    ours = name == MANIFEST or name in ADDED_LATER
    return not hidden and not ours and path.suffix not in _DOCUMENTS and path.stem != "LICENSE"


class Seal:
    """A folder's manifest, for the time that it takes to open the model.

    Args:
        root: The model folder.
        manifest: Its manifest; None verifies nothing.
    """

    def __init__(self, root: Path, manifest: Manifest | None) -> None:
        self.root, self.manifest = root, manifest
        self._expected = {} if manifest is None else manifest.listed
        self._before: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, root: Path, *, verify: bool) -> Seal:
        """Read a folder's manifest, if its files are to be verified and it has one."""
        return cls(root, Manifest.read(root) if verify else None)

    def check_small(self) -> None:
        """Verify the files that are read before an engine opens its own: configurations and tokenizers.

        Raises:
            CorruptModel: If one is not what the manifest says, or is missing; names it.
        """
        for name in self.manifest.inputs if self.manifest else ():
            if not name.endswith(".safetensors"):
                self._begin(name)
                self._compare(name, self._hash(name))

    def weights(self, *, without: Iterable[str] = ()) -> list[str]:
        """Original weights that the manifest names, but for those in the folders ``without``."""
        names = self.manifest.inputs if self.manifest else ()
        left_out = {PurePosixPath(folder) for folder in without}
        return [
            name
            for name in names
            if name.endswith(".safetensors") and PurePosixPath(name).parent not in left_out
        ]

    def parts(self, file: Path) -> list[str]:
        """The files that a converted file consists of, as far as the manifest knows them."""
        name = file.relative_to(self.root).as_posix()
        known = self.manifest.files if self.manifest else {}
        return list(known[name].parts) if name in known else []

    def in_8_bits(self, names: Iterable[str]) -> list[str]:
        """The static int8 files among ``names``, relative to the folder, whose products overflow on a processor without VNNI."""
        known = self.manifest.files if self.manifest else {}
        options = {name: known[name].options for name in names if name in known}
        return [
            name
            for name, each in options.items()
            if str(each.get("kind", "")).startswith("Static") and not each.get("reduce_range")
        ]

    @contextmanager
    def watching(self, names: Iterable[str]) -> Iterator[None]:
        """Verify files while the block reads them: hashed before it ends, and not changed meanwhile.

        An error of the block is replaced by that of a file which explains it.

        Args:
            names: Files that the manifest names, relative to the folder.

        Raises:
            CorruptModel: If one is not what the manifest says, or was replaced while it was read; names it.
        """
        with ThreadPoolExecutor(1, "stopt-verify") as pool:
            hashing: dict[str, Future[str | None]] = {}
            for name in dict.fromkeys(names):
                self._begin(name)
                path = self.root / name
                if path.is_file() and path.stat().st_size > LARGE_BYTES:
                    hashing[name] = pool.submit(self._hash, name)
                else:
                    self._compare(name, self._hash(name))
            try:
                yield
            finally:  # of a block that failed as well: a changed file is the better explanation
                for name, found in hashing.items():
                    self._compare(name, found.result())
        for name, before in self._before.items():
            if self._identity(name) != before:
                raise CorruptModel(
                    f"{self.root / name} was changed or replaced while the model was opened",
                    "open it again, when nobody writes to it",
                )

    def _begin(self, name: str) -> None:
        self._before.setdefault(name, self._identity(name))

    def _hash(self, name: str) -> str | None:
        path = contained(self.root, name)
        return sha256(path) if path.is_file() else None

    def _compare(self, name: str, found: str | None) -> None:
        expected = str(self._expected[name]["sha256"])
        if found != expected:
            raise CorruptModel(f"{self.root}: {Difference(name, expected, found)}", _REMEDY)

    def _identity(self, name: str) -> tuple[int, ...]:
        """Which file a name leads to, and when that, a link to it and the folders on the way were last changed."""
        steps = [name, *map(str, PurePosixPath(name).parents[:-1])]
        return sum((identity(self.root / step) for step in steps), ())


def identity(path: Path) -> tuple[int, ...]:
    """Which file a path leads to, and when it was last changed, in content or in name; empty if there is none."""
    found: tuple[int, ...] = ()
    for follow in (True, False):
        try:
            status = path.stat(follow_symlinks=follow)
        except OSError:
            return ()
        found += (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
