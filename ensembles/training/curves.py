"""Learning curves, drawn from the rows of a `metrics.csv` alone; the same rows always give the same bytes."""

import io
from collections.abc import Sequence

from ensembles.training.experiment import Epoch

DOTS_PER_INCH = 100


def png(epochs: Sequence[Epoch], title: str) -> bytes:
    """Loss and accuracy over the epochs, on training and on calibration rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # matplotlib takes a second to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    numbers = [epoch.epoch for epoch in epochs]
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(numbers, [epoch.training_loss for epoch in epochs], ".-", label="training (augmented)")
    loss.plot(numbers, [epoch.calibration_loss for epoch in epochs], ".-", label="calibration")
    loss.set(xlabel="epoch", ylabel="loss (nats a row)")
    accuracy.plot(numbers, [epoch.training_accuracy * 100 for epoch in epochs], ".-", label="training (augmented)")
    accuracy.plot(numbers, [epoch.calibration_accuracy * 100 for epoch in epochs], ".-", label="calibration")
    accuracy.set(xlabel="epoch", ylabel="right (%)")
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
