"""What engines on NVIDIA GPUs share: the GPU itself, slots for micro-batches on their way, and what stays on the device."""
