"""Plans for NVIDIA GPUs, by TensorRT and by TensorRT for RTX: one code path, the same names in both."""
