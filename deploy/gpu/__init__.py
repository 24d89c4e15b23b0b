"""Work on an NVIDIA GPU: the CUDA driver, micro-batch slots, the cache of frames and states, and JPEGs to frames."""
