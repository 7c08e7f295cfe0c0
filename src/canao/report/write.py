"""The report of a search: a self-contained HTML page, trials.csv and summary.json.

It only reads what the search left in its directory, finished or not, and measures nothing. A
certificate that is not of the library beside it, or not of this search, is refused: the page says
so, and nothing of it is shown.
"""

from __future__ import annotations

import json
from pathlib import Path

from canao.artifact.files import write_whole
from canao.errors import InputError
from canao.report.figures import summary, trials_csv
from canao.report.page import page
from canao.report.run import read

REPORT_FILE = "report.html"


def write_report(run_dir: str | Path) -> Path:
    """Write report.html, trials.csv and summary.json into the run directory.

    Returns the path of the page. Raises InputError if the directory was not written by a search,
    and also, once the page that says so is written, if its certificate is refused.
    """
    run_dir = Path(run_dir)
    run = read(run_dir)
    try:
        write_whole(run_dir / "trials.csv", trials_csv(run.trials))
        write_whole(run_dir / "summary.json", json.dumps(summary(run), indent=1) + "\n")
        write_whole(run_dir / REPORT_FILE, page(run))
    except OSError as error:
        raise InputError(f"{run_dir}: the report cannot be written ({error.strerror})") from None
    if run.refused is not None:
        raise InputError(run.refused)
    return run_dir / REPORT_FILE
