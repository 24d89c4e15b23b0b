"""What all sections of the settings have in common."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deploy.errors import ConfigError


class Section(BaseModel):
    """A section: an unknown setting is an error, and what is wrong is told without its value, which may be a secret."""

    # TOML has inf and nan, which are valid for no setting: a NaN threshold would never be reached, and nobody would notice.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def read_secret(where: str, path: Path) -> str:
    """The secret that a file holds; ``where`` is the setting that names the file. Raises ConfigError."""
    try:
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    if not content:
        raise ConfigError(f"{where}: {path} is empty")
    return content
