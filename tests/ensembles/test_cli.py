"""`ensembles` as the shell sees it: exit codes, and one line for whatever went wrong."""

import sys

import pytest

from ensembles import cli


def told(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the one line on the standard error."""
    monkeypatch.setattr(sys, "argv", ["ensembles", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert isinstance(ended.value.code, int)
    return ended.value.code, line


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["promise", "2"], 2, "ensembles: found errors [2.0], expected at least one, each from 0 to 1"),
        (["report", "no\nwhere"], 1, "ensembles: no where/evaluation.json: found No such file or directory, expected"),
        (
            ["evaluate", "no\nwhere", "--data", "x"],
            1,
            "ensembles: no where: found nothing, expected a model repository",
        ),
        (["evaluate", "n" * 300, "--data", "x"], 1, f"ensembles: {'n' * 197}...: found File name too long, expected"),
        (["train", "digits", "--out", "n" * 300], 1, "ensembles: "),
        (["report", "\x1b[31mred"], 1, r"ensembles: \x1b[31mred/evaluation.json: found No such file or directory"),
        (["nothing"], 2, "ensembles: No such command 'nothing'."),
    ],
)
def test_whatever_goes_wrong_is_told_in_one_line(
    words: list[str], code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = told(words, monkeypatch, capsys)

    assert found == code
    assert said.startswith(line)


def test_a_fault_of_the_system_that_no_command_expects_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(cli, "app", full)

    assert told([], monkeypatch, capsys) == (
        1,
        "ensembles: report.html: found No space left on device, expected a file that can be used",
    )
