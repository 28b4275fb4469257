"""Quantizers: vectors to `Codes` and back, and float queries to what scores against them."""

from qindex.quantize.binary import Binary
from qindex.quantize.chain import Chain
from qindex.quantize.float8 import Float8
from qindex.quantize.floats import Float16, Float32
from qindex.quantize.int4 import Int4
from qindex.quantize.int8 import Int8
from qindex.quantize.lloyd_max import LloydMax
from qindex.quantize.microscaling import Microscaling
from qindex.quantize.product import ProductQuantizer
from qindex.quantize.rabitq import RaBitQ
from qindex.quantize.recurrent import RecurrentBinary
from qindex.quantize.spectral import Spectral

__all__ = [
    "Binary", "Chain", "Float8", "Float16", "Float32", "Int4", "Int8", "LloydMax", "Microscaling", "ProductQuantizer",
    "RaBitQ", "RecurrentBinary", "Spectral",
]  # fmt: skip
