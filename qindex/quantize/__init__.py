"""Quantizers: vectors to `Codes` and back, and float queries to what scores against them."""

from qindex.quantize.binary import Binary
from qindex.quantize.chain import Chain
from qindex.quantize.float8 import Float8
from qindex.quantize.floats import Float16, Float32
from qindex.quantize.int8 import Int8

__all__ = ["Binary", "Chain", "Float8", "Float16", "Float32", "Int8"]
