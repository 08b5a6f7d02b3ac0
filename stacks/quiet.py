"""What libraries write while ZenML is there: only errors, and nothing onto standard output, which is for results."""

import logging

from zenml.logger import ZenMLConsoleHandler


def quiet(*loggers: str) -> None:
    """Let only errors of `loggers` through, and of urllib3's retries: what came of those is an error of ours.

    ZenML's handler, the root's, writes to standard output.
    """
    # Not "urllib3" itself: each client of Kubernetes or of KFP that is made sets its level back to warnings.
    for name in ("urllib3.connectionpool", *loggers):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ZenMLConsoleHandler):
            # Not `sys.stderr`: ZenML copies it into a step's log, where this handler's sibling writes the same.
            handler.setStream(open(2, "w", buffering=1, encoding="utf-8", closefd=False))  # noqa: SIM115
