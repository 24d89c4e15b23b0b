"""What a command loads. Who may import what is checked by import-linter: [tool.importlinter] in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {"av", "cv2", "kafka", "numpy", "onnxruntime", "openvino", "pydantic", "redis", "torch"}


@pytest.mark.parametrize("command", ["oddsight-deploy", "oddsight-stream", "oddsight-train"])
def test_help_loads_nothing_slow(command: str) -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name(command), "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "Commands" in result.stdout
    assert "typer" in loaded  # the import profile was read
    assert loaded & SLOW == set()
