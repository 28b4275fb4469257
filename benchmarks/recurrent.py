"""Trained codes beside untrained ones: bits against recall and nDCG; encoding, scanning; searching across versions.

    python benchmarks/recurrent.py [--only recall,collections,speed,versions,upgrade] [--quick]

    recall       recall@10 on minilm-100k at 24 to 194 bytes of recurrent codes and trained axes (three seeds), sign,
                 RaBitQ, random hyperplanes, product codes and Spectral: by float queries, and by codes on both sides
    collections  nDCG@10 on judged collections of codes that have learnt from minilm-100k
    speed        vectors coded a second, and scans by float and by coded queries, on one thread
    versions     a new encoder's queries on codes of an old one, trained beside these and apart from them
    upgrade      a new encoder's queries, through an adapter, on an index of an old one

QINDEX_DATA must name the folder with minilm-100k and the judged collections. Writes benchmarks/results/recurrent.json;
a run of some sections leaves the others as they were.
"""

import sections

SECTIONS = dict.fromkeys(("recall", "collections", "speed", "versions", "upgrade"), 1)  # and the threads of each
PACKAGES = ["numpy", "numba", "torch", "faiss-cpu", "sentence-transformers", "wordllama"]
STARTED_WITH = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


if __name__ == "__main__":
    sections.run("recurrent", __doc__, SECTIONS, lambda _: PACKAGES, STARTED_WITH)
