"""A plugin of pytest that writes down how each test ends when it does, so that a run that is cut short says something.

ADVKIT_OUTCOMES=FILE pytest -p outcomes        # with this folder on PYTHONPATH; a JSON object a line
"""

import json
import os

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called where the results come together, also with several processes."""
    if report.when != "call" and report.outcome == "passed":
        return
    text = report.longreprtext[-3000:] if report.outcome == "failed" else ""
    row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2), "text": text}
    with open(os.environ["ADVKIT_OUTCOMES"], "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
