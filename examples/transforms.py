"""Transforms before a quantizer: what fewer axes, a rotation, and another product do to bytes and recall."""

import numpy as np

from qindex import PCA, Binary, Center, Chain, FlatIndex, Float8, Float32, Int8, Rotation, Standardize
from qindex.evaluate.metrics import recall

# 20,000 vectors that resemble embeddings: clustered, off the origin, some directions wider than others.
rng = np.random.default_rng(0)
dim, n, m = 256, 20_000, 200
spread = (1 + np.arange(dim)) ** -0.7
centers = rng.normal(size=(500, dim)) * spread + 0.1 * spread[::-1]
vectors = centers[rng.integers(500, size=n + m)] + 0.7 * rng.normal(size=(n + m, dim)) * spread
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
queries, documents = vectors[:m], vectors[m:]
truth = FlatIndex.build(documents, Float32()).search(queries, k=10).ids

print("bytes per vector   recall@10")
for quantizer in (
    Int8("dim"),
    Chain(Standardize(), Int8("dim")),  # queries are stretched the other way: the same product
    Chain(Standardize(queries="same"), Int8("dim")),  # another product
    Chain(PCA(dim=128), Float8()),
    Binary(),
    Chain(Center(), Rotation(), Binary()),
):
    ids = FlatIndex.build(documents, quantizer).search(queries, k=10).ids
    print(f"{quantizer.bytes_per_vector(dim):16}  {recall(ids, truth):10.3f}   {quantizer}")
