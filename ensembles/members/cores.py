"""How much of the machine is ours."""

import os
from pathlib import Path


def cores() -> int:
    """Cores that this process may use: the affinity mask, or the cgroup's quota where that is less."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed
