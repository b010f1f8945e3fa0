"""What `ensemble.yaml` says of what is looked at beside the traffic: answers on audit and members on trial, as frozen values."""

from typing import Annotated

from pydantic import Field

from ensembles.frozen import Frozen, Share
from ensembles.member_spec import MemberSpec

Budget = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
"""Device time at the most, as a share of what the answers took."""


class AuditSpec(Frozen):
    """Which share of the rows that not the full ensemble answered is given to it afterwards, to see whether the label is the same."""

    share: Share = 0.01
    budget: Budget = 0.05


class ShadowSpec(MemberSpec):
    """A member on trial: it runs on a share of the rows in the background, and never votes."""

    share: Share = 0.01
    budget: Budget = 0.05
