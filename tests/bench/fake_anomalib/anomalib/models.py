from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

with suppress(ImportError):
    import openvino_telemetry  # noqa: F401  as OpenVINO does, where it can


class Ganomaly:
    def __init__(self, pre_processor: tuple[int, int]) -> None:
        weights = SimpleNamespace(numel=lambda: pre_processor[0] * 500_000)
        self.model = SimpleNamespace(generator=SimpleNamespace(parameters=lambda: [weights, weights]))

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int]) -> tuple[int, int]:
        return image_size

    def to_openvino(self, export_root: Path, *, input_size: tuple[int, int]) -> Path:
        return self._written(export_root / f"{input_size[0]}.xml")

    def to_torch(self, export_root: Path) -> Path:
        return self._written(export_root / f"{export_root.name}.pt")

    @staticmethod
    def _written(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        return path
