"""Two stages: scan one bit a dimension, then rank the best candidates by eight. How many candidates are enough?"""

import numpy as np

from qindex import Binary, FlatIndex, Float32, Int8
from qindex.evaluate.metrics import recall

# 50,000 vectors that resemble embeddings: clustered, of unit length, some directions wider than others.
rng = np.random.default_rng(0)
dim, n, m = 256, 50_000, 200
spread = (1 + np.arange(dim)) ** -0.3
centers = rng.normal(size=(500, dim)) * spread
vectors = centers[rng.integers(500, size=n + m)] + rng.normal(size=(n + m, dim)) * spread
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
queries, documents = vectors[:m], vectors[m:]

truth = FlatIndex.build(documents, Float32()).search(queries, k=10).ids
one_stage = FlatIndex.build(documents, Binary()).search(queries, k=10).ids
index = FlatIndex.build(documents, Binary(), rescore=Int8())

scanned, kept = Binary().bytes_per_vector(dim), Int8().bytes_per_vector(dim)
print(f"{scanned} bytes a vector are scanned, {kept} more are kept for the candidates; float32 takes {4 * dim}")
print(f"without rescore  recall@10 {recall(one_stage, truth):.3f}")
for oversample in (1, 2, 4, 8, 16):
    ids = index.search(queries, k=10, oversample=oversample).ids
    print(f"{10 * oversample:4} candidates  recall@10 {recall(ids, truth):.3f}")
