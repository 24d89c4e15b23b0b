"""What all sections of the settings have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section: an unknown setting is an error, and what is wrong is told without its value, which may be a secret."""

    # TOML has inf and nan, which are valid for no setting: a NaN threshold would never be reached, and nobody would notice.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
