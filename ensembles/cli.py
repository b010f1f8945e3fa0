"""`ensembles …`: the workbench's commands."""

from ensembles.command_line import application
from ensembles.command_line import run as run_command
from ensembles.commands import evaluate, export, plan, promise, report, search, train

app = application("Train, export and judge the members of an ensemble, and learn whether it is worth its compute.")
app.command(epilog=promise.EPILOG)(promise.promise)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=search.EPILOG)(search.search)
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=plan.EPILOG)(plan.plan)
app.command(epilog=report.EPILOG)(report.report)


def main() -> None:
    run_command(app, "ensembles")
