"""What quality.py searches: real vectors with their exact neighbours, and judged collections."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qindex import FlatIndex, Float32
from qindex.encode.chunks import split_passages
from qindex.evaluate.beir import JudgedCollection, load_beir
from qindex.types import Vectors
from quality_systems import Ids

COLLECTIONS = ("cran", "med", "npl", "xquad-en")
TRUE_K = 100
PASSAGE_CHARS = 150


@dataclass(frozen=True)
class Vectorised:
    """Vectors, and which are the best for each query in float32."""

    name: str
    documents: Vectors
    queries: Vectors
    truth: Ids  # (m, k) of largest inner product

    @property
    def dim(self) -> int:
        return self.documents.shape[1]


def folder() -> Path:
    if "QINDEX_DATA" not in os.environ:
        raise SystemExit(
            f"QINDEX_DATA must name the folder with {', '.join(COLLECTIONS)} (in the layout of BEIR) and minilm-100k"
        )
    return Path(os.environ["QINDEX_DATA"])


def minilm_100k(rows: int | None = None, n_queries: int | None = None) -> Vectorised:
    """all-MiniLM-L6-v2 of dictionary glosses and package descriptions, all or the first `rows`."""
    files = {name: np.load(folder() / "minilm-100k" / f"{name}.npy") for name in ("base", "queries", "truth_ids")}
    documents, queries = (files[name].astype(np.float32) for name in ("base", "queries"))
    if rows is None:
        return Vectorised("minilm-100k", documents, queries, files["truth_ids"])
    return with_truth("minilm-100k", documents[:rows], queries[:n_queries])


def with_truth(name: str, documents: Vectors, queries: Vectors, k: int = TRUE_K) -> Vectorised:
    truth = FlatIndex.build(documents, Float32()).search(queries, k).ids
    return Vectorised(name, documents, queries, truth)


def judged(titles: tuple[str, ...]) -> dict[str, JudgedCollection]:
    return {title: load_beir(folder() / title) for title in titles}


def passages(titles: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Documents of the collections and passages of them, and all queries: each text once."""
    collections = judged(titles)
    whole = [text for one in collections.values() for text in one.documents.values()]
    parts = [passage.text for text in whole for passage in split_passages(text, PASSAGE_CHARS)]
    asked = [text for one in collections.values() for text in one.queries.values()]
    documents, queries = (list(dict.fromkeys(t for t in texts if t.strip())) for texts in (whole + parts, asked))
    return documents, queries


def wordllama_vectors(texts: list[str]) -> Vectors:
    """Static embeddings of 256 numbers, normalised; of zeros where it knows no word."""
    import wordllama

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    vectors = np.asarray(model.embed(texts), np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def wordllama_passages(titles: tuple[str, ...]) -> Vectorised:
    """Documents of the collections and passages of them; all queries."""
    documents, queries = (wordllama_vectors(texts) for texts in passages(titles))
    return with_truth("wordllama-256", documents[documents.any(axis=1)], queries[queries.any(axis=1)])
