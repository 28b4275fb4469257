"""Reranking: what a small cross-encoder of one's own is worth, in few bits and within a budget, beside torch.

    python benchmarks/rerank.py [--only quality,speed,budget,causal] [--quick]

    quality   nDCG@10 of a cross-encoder trained on two folds of the judged queries, asked on the third: alone and
              with the first stage, in float32, 8 and 4 bits; agreement of the latter with float32
    speed     50 documents of about 150 tokens, documents a second beside torch, on one thread
    budget    how long a rerank of 100 docstrings takes under a budget of 200 ms
    causal    SmolLM2-135M in each bit width: is the passage that answers picked among distractors

QINDEX_DATA must name the folder with the judged collections. Writes benchmarks/results/rerank.json; a run of some
sections leaves the others as they were.
"""

import sections

SECTIONS = {"quality": 2, "speed": 1, "budget": 2, "causal": 2}  # and the threads of each
PACKAGES = ["numpy", "numba", "torch", "transformers", "sentence-transformers"]
STARTED_WITH = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


if __name__ == "__main__":
    sections.run("rerank", __doc__, SECTIONS, lambda _: PACKAGES, STARTED_WITH)
