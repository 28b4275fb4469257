"""qindex in mteb.evaluate: many chains over one encoding, and whether mteb finds what qindex finds.

    QINDEX_DATA=... python benchmarks/mteb_tasks.py [--only table,equal,once] [--quick]

Sections, each of its own; a run of some leaves the others in the result as they were:

    table   `measure` of flat chains, lists and a graph, and mteb's CompressionWrapper, on four judged collections
    equal   nDCG@10 from mteb beside that of qindex's own evaluator, and float32 beside mteb's exact search
    once    seconds of one flat chain and of six, encoding counted, on two collections

The encoder is all-MiniLM-L6-v2, by sentence-transformers; all runs on one thread.

Writes benchmarks/results/mteb_tasks.json; a quick run, whose figures mean nothing, writes to the folder for temporary
files instead.
"""

import sections

SECTIONS = dict.fromkeys(("table", "equal", "once"), 1)  # and the threads of each
PACKAGES = ["numpy", "numba", "torch", "sentence-transformers", "transformers", "mteb", "ir-measures"]

if __name__ == "__main__":
    sections.run("mteb_tasks", __doc__, SECTIONS, lambda _: PACKAGES, {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
