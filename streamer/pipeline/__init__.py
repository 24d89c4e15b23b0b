"""The path of a frame: decode, clip, micro-batch, score, decide."""
