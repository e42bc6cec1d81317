"""What is said and kept when bettyc itself fails: a report file that a bug report can carry."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence

import bettyc


def report(arguments: Sequence[str]) -> str:
    """Write the report of the exception being handled; the message for the user.

    The file goes to the current folder, or else to the one for temporary files.
    """
    text = "\n".join([
        f"bettyc {bettyc.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: bettyc {' '.join(arguments)}",
        "",
        traceback.format_exc(),
    ])  # fmt: skip
    name = f"bettyc-report-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    kind = sys.exc_info()[0]
    name_of_kind = kind.__name__ if kind else "unknown"
    said = f"error: bettyc failed ({name_of_kind}); this is a bug, not your fault"
    for folder in (os.getcwd(), tempfile.gettempdir()):
        path = os.path.join(folder, name)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            continue
        return f"{said}\nthe details are in {path}; please report it with the program"
    return f"{said}\n{text}"
