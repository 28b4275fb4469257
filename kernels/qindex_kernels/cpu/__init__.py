"""CPU kernels in numba over the vector words of `simd`. Same function names as `qindex_kernels.reference`."""
