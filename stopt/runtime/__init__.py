"""Serving: text in, vectors out. Needs numpy, tokenizers and one engine; never torch unless it is that engine."""
