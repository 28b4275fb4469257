"""qindex: quantized embeddings and retrieval. Encode text, squeeze the vectors into few bits, search them, rerank.

Names are resolved when they are first used, so that `import qindex` loads neither numba nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qindex.encode.adapter import Adapter, fit_adapter
    from qindex.encode.sentence import SentenceEncoder
    from qindex.index import FlatIndex, GraphIndex, IVFIndex
    from qindex.io import FormatError
    from qindex.kernels import set_threads
    from qindex.opening import load, verify
    from qindex.quantize import (
        Binary,
        Chain,
        Float8,
        Float16,
        Float32,
        Int4,
        Int8,
        LloydMax,
        Microscaling,
        ProductQuantizer,
        RaBitQ,
        RecurrentBinary,
        Spectral,
    )
    from qindex.rerank import CausalReranker, CrossEncoderReranker
    from qindex.search.retriever import Retriever
    from qindex.transform import OPQ, PCA, Center, Rotation, Standardize, Truncate, Whiten

_HOMES = {
    "Adapter": "qindex.encode.adapter",
    "Binary": "qindex.quantize",
    "CausalReranker": "qindex.rerank",
    "Center": "qindex.transform",
    "Chain": "qindex.quantize",
    "CrossEncoderReranker": "qindex.rerank",
    "FlatIndex": "qindex.index",
    "Float8": "qindex.quantize",
    "Float16": "qindex.quantize",
    "Float32": "qindex.quantize",
    "FormatError": "qindex.io",
    "GraphIndex": "qindex.index",
    "IVFIndex": "qindex.index",
    "Int4": "qindex.quantize",
    "Int8": "qindex.quantize",
    "LloydMax": "qindex.quantize",
    "Microscaling": "qindex.quantize",
    "ProductQuantizer": "qindex.quantize",
    "RaBitQ": "qindex.quantize",
    "RecurrentBinary": "qindex.quantize",
    "OPQ": "qindex.transform",
    "PCA": "qindex.transform",
    "Retriever": "qindex.search.retriever",
    "Rotation": "qindex.transform",
    "Spectral": "qindex.quantize",
    "SentenceEncoder": "qindex.encode.sentence",
    "Standardize": "qindex.transform",
    "Truncate": "qindex.transform",
    "Whiten": "qindex.transform",
    "fit_adapter": "qindex.encode.adapter",
    "load": "qindex.opening",
    "set_threads": "qindex.kernels",
    "verify": "qindex.opening",
}

__all__ = [
    "OPQ",
    "PCA",
    "Adapter",
    "Binary",
    "CausalReranker",
    "Center",
    "Chain",
    "CrossEncoderReranker",
    "FlatIndex",
    "Float8",
    "Float16",
    "Float32",
    "FormatError",
    "GraphIndex",
    "IVFIndex",
    "Int4",
    "Int8",
    "LloydMax",
    "Microscaling",
    "ProductQuantizer",
    "RaBitQ",
    "RecurrentBinary",
    "Retriever",
    "Rotation",
    "SentenceEncoder",
    "Spectral",
    "Standardize",
    "Truncate",
    "Whiten",
    "fit_adapter",
    "load",
    "set_threads",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qindex' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
