"""Recipe slices: typed parameters of one step, frozen, each documented with its unit and source.

Holds the base class only, so that science and steps can import it without anything heavy.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Parameters(BaseModel):
    """Parameters of one step; every one changes pixels or numbers. Unknown names are errors, so are nan and inf.

    The slice is hashed as JSON, which has no word for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
