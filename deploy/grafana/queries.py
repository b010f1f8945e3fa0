"""PromQL that panels have in common. `$job` and `$ensemble` are what is chosen on top of a dashboard."""

DEVICES = 'job=~"$job"'
OF = f'{DEVICES}, ensemble=~"$ensemble"'
BY_MEMBER = "ensemble, member"


def rate(metric: str, by: str, more: str = "", window: str = "5m") -> str:
    """Of a counter, a second. `more`: further matchers."""
    return f"sum by ({by}) (rate({metric}{{{OF}{', ' if more else ''}{more}}}[{window}]))"


def p99(metric: str, by: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile(0.99, {rate(f'{metric}_bucket', f'{by}, le')})"


def ratio(part: str, whole: str) -> str:
    return f"{part} / {whole}"
