"""Servers that are started for as long as somebody uses them."""

import os
import signal
import subprocess


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
