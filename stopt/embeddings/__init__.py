"""What is done with finished embeddings: similarity and quantisation."""
