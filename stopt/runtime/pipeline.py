"""Texts to features: tokenizer, engine and modules in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stopt.runtime.batching import plan_batches
from stopt.runtime.modules import Features, Module, load_modules
from stopt.runtime.options import EngineOptions
from stopt.runtime.sessions import Session, open_session
from stopt.runtime.tokenizer import Batch, Ints, Text, TextTokenizer
from stopt.spec import ModelSpec, Pooling

__all__ = ["Pipeline"]

# texts tokenised at a time: sorting needs many to choose from, memory wants few
WINDOW = 16_384


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model ready to run. Immutable: what changes a vector makes a new one.

    Attributes:
        root: The model folder.
        spec: The model as data.
        tokenizer: Texts to batches.
        session: Batches to token embeddings.
        modules: Token embeddings to embeddings.
    """

    root: Path
    spec: ModelSpec
    tokenizer: TextTokenizer
    session: Session
    modules: tuple[Module, ...]

    @classmethod
    def open(cls, root: Path, spec: ModelSpec, options: EngineOptions, device: str | None = None) -> Pipeline:
        """Open a model folder with one of the engines; errors are those of the parts."""
        tokenizer = TextTokenizer(root, spec.tokenizer)
        session = open_session(root, spec, options, device)
        return cls(root, spec, tokenizer, session, load_modules(root, spec, session.constant))

    def with_max_seq_length(self, length: int | None) -> Pipeline:
        """Return the same model cutting texts after ``length`` tokens."""
        tokenizer = self.tokenizer.with_max_seq_length(length)
        return replace(self, spec=replace(self.spec, tokenizer=tokenizer.spec), tokenizer=tokenizer)

    def with_include_prompt(self, include: bool) -> Pipeline:
        """Return the same model pooling over the prompt's tokens, or not."""
        modules = tuple(
            replace(module, include_prompt=include) if isinstance(module, Pooling) else module
            for module in self.spec.modules
        )
        spec = replace(self.spec, modules=modules)
        return replace(self, spec=spec, modules=load_modules(self.root, spec, self.session.constant))

    def run(self, batch: Batch) -> Features:
        """Run one batch through the engine and the modules.

        Returns:
            Features as sentence-transformers names them, the batch's own included.
        """
        features: Features = {
            "input_ids": batch.input_ids,
            "token_type_ids": batch.token_type_ids,
            "prompt_length": batch.prompt_length,
            **self.session.run(batch),
        }
        if "token_embeddings" not in features:  # the graph has its modules inside
            return features
        for module in self.modules:
            features = module(features)
        return features

    def stream(
        self, texts: Sequence[Text], *, prompt: str = "", batch_size: int = 32, max_tokens: int | None = None
    ) -> Iterator[tuple[Ints, Features]]:
        """Run texts in batches of similar length.

        Args:
            texts: Texts or pairs; the prompt goes before the first of a pair.
            prompt: Text to put before each.
            batch_size: Texts in a batch at most.
            max_tokens: Tokens in a batch at most, padding included.

        Yields:
            Positions in ``texts`` of a batch's rows, and the batch's features.
        """
        prompt_length = self.tokenizer.count_prompt(prompt) if prompt else 0
        for start in range(0, len(texts), WINDOW):
            tokens = self.tokenizer.tokenize(_prefixed(texts[start : start + WINDOW], prompt))
            for rows in plan_batches([len(row) for row in tokens], batch_size, max_tokens):
                batch = self.tokenizer.pad([tokens[row] for row in rows], prompt_length)
                yield start + rows, self.run(batch)


def _prefixed(texts: Sequence[Text], prompt: str) -> Sequence[Text]:
    if not prompt:
        return texts
    return [prompt + text if isinstance(text, str) else (prompt + text[0], text[1]) for text in texts]
