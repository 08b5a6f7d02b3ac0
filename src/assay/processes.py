"""Servers that are started for as long as somebody uses them."""

import os
import signal
import subprocess
from collections.abc import Sequence

import psutil


def stop(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Ask a process that leads a session of its own to end, with all that it started; end it if it does not.

    Args:
        process: started with `start_new_session=True`.
        patience_s: seconds it may take to end by itself, and again after it was killed.
    """
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=patience_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def stop_all(leaders: Sequence[psutil.Process], patience_s: float) -> None:
    """As `stop`, for processes that somebody else may have started; they end side by side."""
    families = [process for leader in leaders for process in [leader, *leader.children(recursive=True)]]
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in leaders if sign == signal.SIGTERM else families:
            try:
                process.send_signal(sign)
            except psutil.NoSuchProcess:
                continue
        _, families = psutil.wait_procs(families, timeout=patience_s)
        if not families:
            return
