"""Codes that learn: recall of 2 bits a number, trained and not, by float queries and by queries that are codes, too."""

import time
from dataclasses import replace

import numpy as np

from qindex import FlatIndex, Float32, RaBitQ, RecurrentBinary, Spectral
from qindex.evaluate.metrics import recall
from qindex.quantize.learning import train

# 20,000 vectors that resemble embeddings: clustered, of unit length, some directions wider than others.
rng = np.random.default_rng(0)
dim, n, m = 128, 20_000, 200
spread = (1 + np.arange(dim)) ** -0.3
centers = rng.normal(size=(500, dim)) * spread
vectors = centers[rng.integers(500, size=n + m)] + rng.normal(size=(n + m, dim)) * spread
vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
queries, documents = vectors[:m], vectors[m:]
truth = FlatIndex.build(documents, Float32()).search(queries, k=10).ids

started = time.perf_counter()
learnt = train(RecurrentBinary(bits=2), documents, steps=300)
print(f"trained in {time.perf_counter() - started:.0f} s")
for quantizer in (RaBitQ(2), Spectral(32), learnt, replace(learnt, symmetric=True)):
    index = FlatIndex.build(documents, quantizer)
    found = recall(index.search(queries, k=10).ids, truth)
    print(f"{quantizer!r}: {index.quantizer.bytes_per_vector(dim)} bytes  recall@10 {found:.3f}")
