"""Ranges of a model's embeddings from any number of texts: encoded in windows, looked at once, and forgotten."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from stopt.embeddings.call import rescales
from stopt.embeddings.quantization import FEW
from stopt.embeddings.ranges import Provenance, Ranges, RangesBuilder
from stopt.errors import InputError, OptionError, StoptWarning, suggest
from stopt.runtime.sentence_transformer import SentenceTransformer
from stopt.steps import FEW_TEXTS

__all__ = ["RangeOptions", "calibrate_ranges"]

# texts encoded at a time: enough to sort by length, and 25 MB of 384-dimensional embeddings
WINDOW = 16_384


@dataclass(frozen=True, slots=True)
class RangeOptions:
    """How ranges are computed, and of which embeddings.

    Attributes:
        percentile: Upper percentile, above 50 and below 100, the lower being its mirror image; values beyond are
            clipped. None is minimum and maximum.
        prompt_name: Name of the prompt to put before each text.
        prompt: The prompt itself; wins over ``prompt_name``.
        truncate_dim: Leading dimensions to keep. None is all, whose ranges serve embeddings of fewer, too; of
            embeddings scaled to unit length, for which that does not hold, the model's ``truncate_dim``.
        normalize_embeddings: Scale embeddings to unit length after that.
        batch_size: Texts that are run together, at most; None is what suits the engine.
        task: Route to take, of a model with a Router; None is that of documents.
    """

    percentile: float | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    truncate_dim: int | None = None
    normalize_embeddings: bool = False
    batch_size: int | None = None
    task: str | None = None


def calibrate_ranges(
    model: SentenceTransformer,
    texts: Iterable[str],
    options: RangeOptions | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Ranges:
    """Compute the range of each dimension of a model's embeddings.

    Memory does not grow with the number of texts, which may be a generator.

    Args:
        model: The model, with the file that is to be served.
        texts: Texts of the kind that will be encoded; a few hundred at least.
        options: How; None is minimum and maximum of whole embeddings, with the model's default prompt.
        say: Is told in words how far it is.

    Returns:
        The ranges. ``ranges.write(folder / RANGES)`` keeps them with the model, as ``stopt calibrate`` does.

    Raises:
        InputError: If something is not a text, there are too few, or the model gives NaN or infinity.
        OptionError: If an option's value is wrong.
    """
    chosen = options or RangeOptions()
    if isinstance(texts, str):
        raise InputError("one text has no ranges", "give a list of texts, hundreds if possible")
    builder = RangesBuilder(chosen.percentile)
    digest = hashlib.sha256()
    prompt = _prompt(model, chosen)
    spec = model.pipeline.spec
    kept = chosen.truncate_dim
    if kept is None and chosen.normalize_embeddings:
        kept = model.truncate_dim
    for window in _windows(texts):
        for text in window:
            if not isinstance(text, str):
                raise InputError(f"expected texts, got {type(text).__name__}", "give an iterable of str")
            # each text's length first: two ways to cut the same letters into texts differ
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        builder.add(
            model.encode(
                window,
                prompt=prompt,
                batch_size=chosen.batch_size,
                truncate_dim=spec.embedding_dimension if kept is None else kept,
                normalize_embeddings=chosen.normalize_embeddings,
                task=chosen.task or ("document" if model.pipeline.routes else None),
            )
        )
        say(f"{builder.count} texts encoded")
    if builder.count < FEW_TEXTS:
        raise InputError(
            f"{builder.count} texts are too few for ranges that hold",
            f"give {FEW_TEXTS} at least, better hundreds, of the kind that will be encoded",
        )
    if builder.count < FEW:
        warnings.warn(
            f"ranges come from only {builder.count} texts: values of others are clipped to them; give a few hundred",
            StoptWarning,
            stacklevel=2,
        )
    provenance = Provenance(
        texts=builder.count,
        sha256=digest.hexdigest(),
        method="minmax" if chosen.percentile is None else "percentile",
        percentile=chosen.percentile,
        sampled=builder.sampled,
        prompt=prompt,
        file=_relative(model),
        backend=model.get_backend(),
        precision=model.pipeline.session.precision,
        truncate_dim=kept,
        normalized=rescales(spec, kept, chosen.normalize_embeddings),
    )
    return builder.finish(provenance)


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(texts)
    while window := list(islice(waiting, WINDOW)):
        yield window


def _prompt(model: SentenceTransformer, options: RangeOptions) -> str:
    """The text before each text, as ``encode`` chooses it."""
    name = model.default_prompt_name if options.prompt_name is None else options.prompt_name
    if options.prompt is not None or name is None:
        return options.prompt or ""
    if name not in model.prompts:
        raise OptionError(f"there is no prompt named {name!r}", suggest(name, list(model.prompts)))
    return model.prompts[name]


def _relative(model: SentenceTransformer) -> str:
    """The file's path within the model folder; ``""`` for torch, which has the folder's weights."""
    file, root = model.file.absolute(), model.pipeline.root.absolute()
    if file == root:
        return ""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
