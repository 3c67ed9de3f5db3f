"""Recipe slices: the base class of the parameters of one step; each room documents its own with unit and source."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Parameters(BaseModel):
    """Parameters of one step; every one changes pixels or numbers. Unknown names are errors, so are nan and inf.

    The slice is hashed as JSON, which has no word for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
