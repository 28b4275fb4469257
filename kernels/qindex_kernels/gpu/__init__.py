"""The kernels of `reference` in Triton, for rows and queries that are torch tensors on a CUDA device."""
