"""Stands in for torch where fake_anomalib does for anomalib."""

import os


def set_num_threads(threads: int) -> None:
    os.write(2, f"torch: {threads} threads\n".encode())
