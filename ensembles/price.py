"""What a device costs where nobody says otherwise."""

PRICE_PER_HOUR = 0.10
"""USD for an hour of one device: about what two cloud vCPUs cost on demand in 2026."""
