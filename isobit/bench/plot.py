"""Times as a picture: a bar for each contender with its quartiles, and its ratio to the first."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from isobit.backends.device.timing import conditions, milliseconds, ratios
from isobit.bench.measure import Measured
from isobit.pipeline.errors import InputError

KINDS = (".png", ".svg")
PACKAGE = "matplotlib"


def check_plot(path: Path) -> None:
    """Raises InputError where no picture of this name can be drawn."""
    if path.suffix not in KINDS:
        raise InputError("a plot is no such file", where=str(path), field="plot", allowed=" or ".join(KINDS))
    if find_spec(PACKAGE) is None:
        raise InputError(f"--plot needs {PACKAGE}", field="plot", hint="pip install 'isobit[peers]'")


def write_plot(measured: Measured, path: Path) -> None:
    """Draw the bars to a file; the same numbers give the same SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "isobit", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 1.2 + 0.4 * len(measured.times)), layout="constrained")
        axes = figure.subplots()
        for place, (name, times) in enumerate(measured.times.items()):
            low, median, high = milliseconds(times)
            axes.barh(place, median, xerr=[[median - low], [high - median]], capsize=2,
                      color="C0" if name == measured.base else "C7")
            axes.annotate(f" {ratios(times, measured.times[measured.base])[1]:.3f}x", (high, place), va="center")
        axes.set_yticks(range(len(measured.times)), list(measured.times), parse_math=False)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        settings = measured.settings
        axes.set_xlabel(f"milliseconds, and time over {measured.base}", parse_math=False)
        axes.set_title(conditions(settings.threads, settings.batch, settings.rounds), fontsize=8, parse_math=False)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise InputError(f"'{path}' cannot be written: {error.strerror}", where=str(path), field="plot") from error
