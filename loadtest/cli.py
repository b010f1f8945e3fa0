"""`loadtest …`: the load generator's commands."""

from ensembles.command_line import application
from ensembles.command_line import run as run_command
from loadtest.commands import capacity, compare, merge, report, run, size

app = application("Measure a served ensemble under load: how fast, how right, and how dear.")
app.command(epilog=run.EPILOG)(run.run)
app.command(epilog=capacity.EPILOG)(capacity.capacity)
app.command(epilog=size.EPILOG)(size.size)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=merge.EPILOG)(merge.merge)
app.command(epilog=report.EPILOG)(report.report)


def main() -> None:
    run_command(app, "loadtest")
