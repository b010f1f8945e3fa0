import http.server
import threading

import pytest

from loadtest import prometheus
from loadtest.prometheus import ScrapeError

BEFORE = """
# TYPE ensemble_requests_total counter
ensemble_requests_total{ensemble="digits",code="OK"} 10
ensemble_requests_total{ensemble="other",code="OK"} 5
# TYPE ensemble_request_seconds histogram
ensemble_request_seconds_bucket{ensemble="digits",le="0.001"} 10
ensemble_request_seconds_bucket{ensemble="digits",le="0.01"} 10
ensemble_request_seconds_bucket{ensemble="digits",le="+Inf"} 10
ensemble_request_seconds_count{ensemble="digits"} 10
ensemble_request_seconds_sum{ensemble="digits"} 0.005
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1
"""
AFTER = BEFORE.replace('code="OK"} 10', 'code="OK"} 110').replace('code="OK"} 5', 'code="OK"} 6')
AFTER = AFTER.replace('le="0.01"} 10', 'le="0.01"} 60').replace('le="+Inf"} 10', 'le="+Inf"} 110')
AFTER = AFTER.replace('_count{ensemble="digits"} 10', '_count{ensemble="digits"} 110').replace("total 1\n", "total 9\n")


@pytest.fixture
def page():
    """An address that shows the text that it is given."""
    shown = [""]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = shown[0].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *said: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics", shown
        server.shutdown()
        thread.join()


def test_what_grew_in_the_span_is_told_for_this_ensemble(page) -> None:
    url, shown = page
    shown[0] = BEFORE
    before = prometheus.scrape(url)
    shown[0] = AFTER
    found = prometheus.increase(before, prometheus.scrape(url), "digits")

    assert found['ensemble_requests_total{code="OK",ensemble="digits"}'] == 100
    assert found['ensemble_request_seconds_count{ensemble="digits"}'] == 100
    assert found['ensemble_request_seconds{ensemble="digits",quantile="0.5"}'] == pytest.approx(0.01)
    assert not any("other" in name or name.startswith("process_") for name in found)


def test_a_quantile_lies_within_its_bucket_as_far_as_its_rank() -> None:
    buckets = [(0.001, 0.0), (0.01, 60.0), (float("inf"), 100.0)]

    assert prometheus.quantile(0.3, buckets) == pytest.approx(0.001 + 0.009 * 0.5)
    assert prometheus.quantile(0.6, buckets) == pytest.approx(0.01)
    assert prometheus.quantile(0.99, buckets) == 0.01  # above the last bound nothing more is known


@pytest.mark.parametrize("text", ["<html>\n<body>", "a{b=} x"])
def test_a_page_of_another_kind_is_told_in_a_line(page, text) -> None:
    url, shown = page
    shown[0] = text

    with pytest.raises(ScrapeError, match="expected a page in the Prometheus text format"):
        prometheus.scrape(url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1:1/metrics", "localhost:8002"])
def test_an_address_without_metrics_is_told_in_a_line(url) -> None:
    with pytest.raises(ScrapeError, match="expected"):
        prometheus.scrape(url)
