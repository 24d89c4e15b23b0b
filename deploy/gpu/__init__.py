"""What engines and decoders on NVIDIA GPUs share: the driver, micro-batch slots, and the frame and state store."""
