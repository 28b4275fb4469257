"""ggml's CPU matrix product through ctypes, from the libraries inside the llama-cpp-python package.

Weights are random blocks of ggml's own formats. A repacked layer lies in ggml's CPU_REPACK buffer, which interleaves
eight rows. One thread; the activations are quantized to int8 blocks inside the product.
"""

import ctypes
import weakref
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_F32 = 0
_ALIGNMENT = 64
_GRAPH = 4  # tensors of one graph, rounded up: weights, input, output


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_Log = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)  # level, text, the caller's own pointer


@_Log
def _silent(level: int, text: bytes, data: int | None) -> None:
    """Instead of ggml's own log, a line on stderr for every layer that it repacks."""


# Each block format: ggml's number for it, the numbers in a block, the block.
_BLOCKS: dict[str, tuple[int, int, np.dtype[Any]]] = {
    "q4_0": (2, 32, np.dtype([("d", "<f2"), ("codes", "u1", 16)])),
    "q8_0": (8, 32, np.dtype([("d", "<f2"), ("codes", "i1", 32)])),
    "q4_K": (12, 256, np.dtype([("d", "<f2"), ("d_min", "<f2"), ("scales", "u1", 12), ("codes", "u1", 128)])),
}

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_log_set": (None, [_Log, c_void_p]),
    "ggml_init": (c_void_p, [_InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_tensor_overhead": (c_size_t, []),
    "ggml_graph_overhead_custom": (c_size_t, [c_size_t, c_bool]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_get_device": (c_void_p, [c_void_p]),
    "ggml_backend_dev_backend_reg": (c_void_p, [c_void_p]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_get_default_buffer_type": (c_void_p, [c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_buft_alloc_buffer": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_buffer_get_base": (c_void_p, [c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_tensor_alloc": (c_int, [c_void_p, c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
} | {f"dequantize_row_{name}": (None, [c_void_p, c_void_p, c_int64]) for name in _BLOCKS}


@cache
def _ggml() -> ctypes.CDLL:
    package = find_spec("llama_cpp")
    if package is None or package.origin is None:
        raise ImportError("ggml is taken from llama-cpp-python: pip install llama-cpp-python")
    folder = Path(package.origin).parent / "lib"
    (path,) = (file for file in folder.iterdir() if file.name in ("libggml.so", "libggml.dylib", "ggml.dll"))
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.ggml_log_set(_silent, None)
    return library


@cache
def _backend() -> int:
    backend = _ggml().ggml_backend_cpu_init()
    _ggml().ggml_backend_cpu_set_n_threads(backend, 1)
    return int(backend)


def _repacking_buffers() -> int:
    """The buffer type that repacks weights for this CPU."""
    ggml = _ggml()
    device = ggml.ggml_backend_get_device(_backend())
    address = ggml.ggml_backend_reg_get_proc_address(
        ggml.ggml_backend_dev_backend_reg(device), b"ggml_backend_dev_get_extra_bufts"
    )
    extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(device)
    for kind in takewhile(bool, extra):  # ends with a null pointer
        if ggml.ggml_backend_buft_name(kind) == b"CPU_REPACK":
            return int(kind)
    raise ValueError("this build of ggml has no CPU_REPACK buffers; build it with GGML_CPU_REPACK=ON")


def _context(n_tensors: int, n_graphs: int) -> int:
    ggml = _ggml()
    graph = ggml.ggml_graph_overhead_custom(_GRAPH, False) + _ALIGNMENT
    size = n_tensors * (ggml.ggml_tensor_overhead() + _ALIGNMENT) + n_graphs * graph
    return int(ggml.ggml_init(_InitParams(size, None, True)))


class Layers:
    """Linear layers y = x @ W.T with distinct random (n, k) weights of one block format."""

    def __init__(self, block: str, n: int, k: int, n_layers: int, repacked: bool) -> None:
        ggml = _ggml()
        self._block, self._shape, self._n_layers = block, (n, k), n_layers
        self._graphs: dict[int, tuple[int, int, list[int]]] = {}
        number, _, dtype = _BLOCKS[block]
        self.weight_bytes = n * int(ggml.ggml_row_size(number, k))
        context = _context(n_layers, 0)
        self._layers = [ggml.ggml_new_tensor_2d(context, number, k, n) for _ in range(n_layers)]
        kind = _repacking_buffers() if repacked else ggml.ggml_backend_get_default_buffer_type(_backend())
        self._keep(ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, kind), context)
        for layer, tensor in enumerate(self._layers):
            blocks = self._blocks(layer)
            if blocks.nbytes != self.weight_bytes:
                raise ValueError(f"a {block} block must be {dtype.itemsize} bytes, but this ggml has another layout")
            ggml.ggml_backend_tensor_set(tensor, blocks.ctypes.data, 0, blocks.nbytes)

    def multiply(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(m, k) -> (m, n)."""
        ggml = _ggml()
        m = len(x)
        if m not in self._graphs:
            self._graphs[m] = self._build(m)
        source, place, graphs = self._graphs[m]
        ggml.ggml_backend_tensor_set(source, x.ctypes.data, 0, x.nbytes)
        if ggml.ggml_backend_graph_compute(_backend(), graphs[layer]):
            raise ValueError(f"ggml could not multiply {x.shape} by {self._shape}")
        y = np.empty((m, self._shape[0]), np.float32)
        ctypes.memmove(y.ctypes.data, place, y.nbytes)
        return y

    def weights(self, layer: int) -> NDArray[np.float32]:
        """The float matrix (n, k) that the blocks stand for, decoded by ggml."""
        blocks, decoded = self._blocks(layer), np.empty(self._shape, np.float32)
        getattr(_ggml(), f"dequantize_row_{self._block}")(blocks.ctypes.data, decoded.ctypes.data, decoded.size)
        return decoded

    def _build(self, m: int) -> tuple[int, int, list[int]]:
        """For inputs of m rows: the input tensor, the address of the output, one graph a layer."""
        ggml = _ggml()
        n, k = self._shape
        context = _context(1 + self._n_layers, self._n_layers)
        source = ggml.ggml_new_tensor_2d(context, _F32, k, m)
        kind = ggml.ggml_backend_get_default_buffer_type(_backend())
        buffer = ggml.ggml_backend_buft_alloc_buffer(kind, (k + n) * m * 4 + _ALIGNMENT)
        self._keep(buffer, context)
        base = ggml.ggml_backend_buffer_get_base(buffer)
        place = base + -(-k * m * 4 // _ALIGNMENT) * _ALIGNMENT
        ggml.ggml_backend_tensor_alloc(buffer, source, base)
        graphs = []
        for weight in self._layers:
            product = ggml.ggml_mul_mat(context, weight, source)
            # One place for every layer's output, which so stays in the cache as it does in the other libraries.
            ggml.ggml_backend_tensor_alloc(buffer, product, place)
            graph = ggml.ggml_new_graph_custom(context, _GRAPH, False)
            ggml.ggml_build_forward_expand(graph, product)
            graphs.append(graph)
        return source, place, graphs

    def _blocks(self, layer: int) -> NDArray[Any]:
        number, length, dtype = _BLOCKS[self._block]
        n, k = self._shape
        rng = np.random.default_rng([layer, number])
        blocks = np.frombuffer(bytearray(rng.bytes(n * k // length * dtype.itemsize)), dtype)
        steps = rng.uniform(0.5, 1.0, len(blocks)) / np.sqrt(k)
        if self._block == "q4_K":  # its codes are 0 to 15, its scales and minima 0 to 63
            steps /= 32
            blocks["d_min"] = 7.5 * steps
        blocks["d"] = steps / (32 if self._block == "q8_0" else 4)
        return blocks

    def _keep(self, buffer: int, context: int) -> None:
        """Free both when these layers go."""
        weakref.finalize(self, _ggml().ggml_free, context)
        weakref.finalize(self, _ggml().ggml_backend_buffer_free, buffer)
