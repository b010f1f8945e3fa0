from loadtest.histogram import Histogram
from loadtest.jobs import Beat
from loadtest.live import View


def beat(done: int, milliseconds: float) -> Beat:
    latency = Histogram(2)
    latency.record(milliseconds / 1000, done)
    return Beat(sent=done, done=done, errors=1, latency=latency)


def test_without_a_terminal_a_line_tells_of_five_seconds(capsys) -> None:
    with View(["full", "cheap"], 30.0) as view:
        for second in range(1, 13):
            view(second, [beat(10, 2.0), beat(20, 1.0)])
    lines = capsys.readouterr().err.splitlines()

    assert len(lines) == 2
    assert lines[0].startswith(
        "5 of 30 s: full 50 answered, 5 errors, p50 2 ms, p99 2 ms; cheap 100 answered, 5 errors, p50 1"
    )


def test_quiet_is_quiet(capsys) -> None:
    with View(["full"], 30.0, quiet=True) as view:
        view(10.0, [beat(1, 1.0)])

    assert capsys.readouterr() == ("", "")
