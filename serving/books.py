"""Where those who run members and count votes write down what they did."""

from dataclasses import dataclass

from serving.ledger import Ledger
from serving.statistics import Statistics
from serving.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger of the devices, the series for Prometheus, and the statistics of the protocol."""

    ledger: Ledger
    telemetry: Telemetry
    statistics: Statistics
