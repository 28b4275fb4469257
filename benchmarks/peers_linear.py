"""Linear layers in few bits as other libraries compute them: y = x @ W.T, one thread.

A peer holds `n_layers` layers with weights of their own, so that calls which rotate over the layers read the weights
from memory and not from a cache. The weights are random codes and scales from a seed, packed straight into the peer's
layout: no float matrix is quantized, and `Peer.weights` makes the float matrix that a layer stands for again.

The thread counts of OpenMP are read when a library is first loaded: set OMP_NUM_THREADS=1 before the first import.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[int, NDArray[np.float32]], Any]


@dataclass(frozen=True)
class Peer:
    """One way to compute the layers. The first call of each layer may allocate: call each once before timing."""

    name: str
    family: str  # float32, bf16, w8a8, w8a16, w4a8, w4a16: bits of the weights and of the activations
    weight_bytes: int  # of one layer, scales included
    run: Run  # layer, x (m, k) float32 -> y (m, n), an array or a tensor
    weights: Callable[[int], NDArray[np.float32]]  # layer -> the (n, k) matrix it stands for


def linear_peers(n: int, k: int, n_layers: int) -> Iterator[Peer]:
    """Make one peer at a time, of the libraries that are installed.

    n and k are multiples of 256. A peer is built when it is asked for, and keeps up to 4 * n * k * n_layers bytes:
    drop each before asking for the next.
    """
    for needs, peers in _LIBRARIES:
        if all(map(find_spec, needs)):
            yield from peers(n, k, n_layers)


def missing_libraries() -> list[str]:
    """Packages without which `linear_peers` leaves peers out."""
    return [package for needs, _ in _LIBRARIES for package in needs if find_spec(package) is None]


def to_array(y: Any) -> NDArray[np.float32]:
    """What a peer's `run` gave, as (m, n) float32."""
    return np.asarray(y if isinstance(y, np.ndarray) else y.float().numpy(), np.float32)


def _codes(layer: int, n: int, k: int, bits: int, group: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Random codes (n, k), 2 ** (bits - 1) for zero, and scales (n, k / group): exact in bfloat16 and float16."""
    rng = np.random.default_rng([layer, bits, group])
    codes = np.frombuffer(rng.bytes(n * k), np.uint8).reshape(n, k) >> (8 - bits)
    scales = rng.integers(128, 256, (n, k // group)) / 2.0 ** (9 + bits)
    return codes, scales.astype(np.float32)


def _weights(n: int, k: int, bits: int, group: int) -> Callable[[int], NDArray[np.float32]]:
    def weights(layer: int) -> NDArray[np.float32]:
        codes, scales = _codes(layer, n, k, bits, group)
        centred = codes.astype(np.float32) - 2 ** (bits - 1)
        return (centred.reshape(n, -1, group) * scales[:, :, None]).reshape(n, k)

    return weights


def _signed(codes: NDArray[np.uint8]) -> NDArray[np.int8]:
    return (codes ^ 128).view(np.int8)


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes a byte, the first in the low half."""
    return codes[:, ::2] | codes[:, 1::2] << 4


def _bytes(n: int, k: int, bits: int, group: int, scale_bytes: int) -> int:
    return n * k * bits // 8 + n * k // group * scale_bytes


def _torch_peers(n: int, k: int, n_layers: int) -> Iterator[Peer]:
    import torch

    torch.set_num_threads(1)
    yield _torch_float(n, k, n_layers, torch.float32)
    yield _torch_float(n, k, n_layers, torch.bfloat16)
    for engine in ("fbgemm", "x86", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            yield _torch_dynamic(n, k, n_layers, engine)
    yield _torch_int8_weights(n, k, n_layers)
    yield _torch_int4_weights(n, k, n_layers)


def _torch_float(n: int, k: int, n_layers: int, dtype: Any) -> Peer:
    import torch

    weights = _weights(n, k, 8, k)
    layers = [torch.from_numpy(weights(layer)).to(dtype) for layer in range(n_layers)]

    def run(layer: int, x: NDArray[np.float32]) -> Any:
        return torch.nn.functional.linear(torch.from_numpy(x).to(dtype), layers[layer])

    name = "float32" if dtype == torch.float32 else "bf16"
    return Peer(f"torch {name}", name, n * k * dtype.itemsize, run, lambda layer: layers[layer].float().numpy())


def _torch_dynamic(n: int, k: int, n_layers: int, engine: str) -> Peer:
    import torch

    def pack(layer: int) -> Any:
        codes, scales = _codes(layer, n, k, 8, k)
        zeros = torch.zeros(n, dtype=torch.int64)
        scale = torch.from_numpy(scales[:, 0]).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch announces the end of its quantized tensors
            weight = torch._make_per_channel_quantized_tensor(torch.from_numpy(_signed(codes)), scale, zeros, 0)
        return torch.ops.quantized.linear_prepack(weight, None)

    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine  # what linear_prepack packs for; a packed layer remembers it
    try:
        layers = [pack(layer) for layer in range(n_layers)]
    finally:
        torch.backends.quantized.engine = before

    def run(layer: int, x: NDArray[np.float32]) -> Any:
        # reduce_range (activations in 7 bits) is what torch.ao.nn.quantized.dynamic.Linear passes.
        return torch.ops.quantized.linear_dynamic(torch.from_numpy(x), layers[layer], True)

    return Peer(f"torch dynamic int8 ({engine})", "w8a8", _bytes(n, k, 8, k, 4), run, _weights(n, k, 8, k))


def _torch_int8_weights(n: int, k: int, n_layers: int) -> Peer:
    import torch

    def pack(layer: int) -> Any:
        codes, scales = _codes(layer, n, k, 8, k)
        return torch.from_numpy(_signed(codes)), torch.from_numpy(scales[:, 0]).bfloat16()

    layers = [pack(layer) for layer in range(n_layers)]

    def run(layer: int, x: NDArray[np.float32]) -> Any:
        return torch._weight_int8pack_mm(torch.from_numpy(x).bfloat16(), *layers[layer])

    return Peer("torch int8 weights, bf16", "w8a16", _bytes(n, k, 8, k, 2), run, _weights(n, k, 8, k))


def _torch_int4_weights(n: int, k: int, n_layers: int, group: int = 128) -> Peer:
    import torch

    def pack(layer: int) -> Any:
        codes, scales = _codes(layer, n, k, 4, group)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes.astype(np.int32)), 2)
        scale = torch.from_numpy(scales.T.copy()).bfloat16()
        return packed, torch.stack([scale, torch.zeros_like(scale)], dim=2)

    layers = [pack(layer) for layer in range(n_layers)]

    def run(layer: int, x: NDArray[np.float32]) -> Any:
        packed, scales = layers[layer]
        return torch.ops.aten._weight_int4pack_mm_for_cpu(torch.from_numpy(x).bfloat16(), packed, group, scales)

    name = f"torch int4 g{group} weights, bf16"
    return Peer(name, "w4a16", _bytes(n, k, 4, group, 4), run, _weights(n, k, 4, group))


def _onnxruntime_peers(n: int, k: int, n_layers: int) -> Iterator[Peer]:
    for bits, group in ((4, 128), (4, 32), (8, 32)):
        yield _matmul_nbits(n, k, n_layers, bits, group)


def _matmul_nbits(n: int, k: int, n_layers: int, bits: int, group: int) -> Peer:
    """One session a layer, each one MatMulNBits node that may quantize the activations to int8 (accuracy level 4)."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(layer: int) -> Any:
        codes, scales = _codes(layer, n, k, bits, group)
        packed = (_nibbles(codes) if bits == 4 else codes).reshape(n, k // group, group * bits // 8)
        settings = {"K": k, "N": n, "bits": bits, "block_size": group, "accuracy_level": 4}
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **settings)
        graph = helper.make_graph(
            [node],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
            [numpy_helper.from_array(packed, "w"), numpy_helper.from_array(scales, "s")],
        )
        operators = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=operators, ir_version=10)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    sessions = [session(layer) for layer in range(n_layers)]

    def run(layer: int, x: NDArray[np.float32]) -> Any:
        return sessions[layer].run(None, {"x": x})[0]

    name = f"onnxruntime MatMulNBits int{bits} g{group}"
    return Peer(name, f"w{bits}a8", _bytes(n, k, bits, group, 4), run, _weights(n, k, bits, group))


def _openvino_peers(n: int, k: int, n_layers: int) -> Iterator[Peer]:
    for bits, group in ((4, 128), (8, k)):
        for x_group in (32, 128):  # the default, and a coarser one that is faster on batches
            yield _openvino(n, k, n_layers, bits, group, x_group)


def _openvino(n: int, k: int, n_layers: int, bits: int, group: int, x_group: int) -> Peer:
    """One compiled model a layer: compressed weights as constants, activations quantized in groups of x_group."""
    import openvino
    from openvino import opset13 as ops

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # pinned, it waits for whatever else runs on its core
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": x_group,
    }

    def request(layer: int) -> Any:
        codes, scales = _codes(layer, n, k, bits, group)
        # Signed, without a zero point: one given as a float constant turns the quantization of activations off.
        packed, kind = (_nibbles(codes ^ 8), openvino.Type.i4) if bits == 4 else (_signed(codes), openvino.Type.i8)
        stored = openvino.op.Constant(openvino.Tensor(packed, openvino.Shape([n, k // group, group]), kind))
        scaled = ops.multiply(ops.convert(stored, "f16"), ops.constant(scales[:, :, None].astype(np.float16)))
        weight = ops.convert(ops.reshape(scaled, ops.constant([n, k]), False), "f32")
        x = ops.parameter([-1, k], np.float32)
        model = openvino.Model([ops.matmul(x, weight, False, True)], [x])
        return core.compile_model(model, "CPU", settings).create_infer_request(), packed

    # The tensor does not keep its array alive, and the weights are read from it as late as the first call.
    requests = [request(layer) for layer in range(n_layers)]

    def run(layer: int, x: NDArray[np.float32]) -> Any:
        return requests[layer][0].infer([x], share_inputs=True, share_outputs=True)[0]

    name = f"openvino int{bits} " + ("per row" if group == k else f"g{group}") + f", x g{x_group}"
    return Peer(name, f"w{bits}a8", _bytes(n, k, bits, group, 2), run, _weights(n, k, bits, group))


def _ggml_peers(n: int, k: int, n_layers: int) -> Iterator[Peer]:
    import peers_ggml

    for block, repacked in (("q4_0", False), ("q4_0", True), ("q4_K", False), ("q4_K", True), ("q8_0", False)):
        layers = peers_ggml.Layers(block, n, k, n_layers, repacked)
        family = "w8a8" if block == "q8_0" else "w4a8"
        name = f"ggml {block}" + (" repacked" if repacked else "")
        yield Peer(name, family, layers.weight_bytes, layers.multiply, layers.weights)


_LIBRARIES: list[tuple[tuple[str, ...], Callable[[int, int, int], Iterator[Peer]]]] = [
    (("torch",), _torch_peers),
    (("onnx", "onnxruntime"), _onnxruntime_peers),
    (("openvino",), _openvino_peers),
    (("llama_cpp",), _ggml_peers),
]
