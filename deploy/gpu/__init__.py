"""What NVIDIA GPU engines and decoders share: the CUDA driver, micro-batch slots, and the cache of frames and states."""
