"""Bad input, in one line, and how command lines end."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


class CnlabError(Exception):
    """Bad input, said in one line: what, where, how to mend. Command lines print it and exit with ``status``."""

    status = 2


class FolderInUseError(CnlabError):
    """Another process works in the folder; whoever started this one may wait and try again."""

    status = 75  # EX_TEMPFAIL of sysexits.h


def first_line(error: BaseException) -> str:
    """First line of an error's text without its full stop; the name of its type when it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class _Terminated(KeyboardInterrupt):
    """What ``kill``, a batch system or a shutdown asks for (SIGTERM)."""


def run_cli(main: Callable[[], None]) -> NoReturn:
    """Run a command line: every end but a crash is one line.

    CnlabError and full disks have status 2 (75: folder in use), Ctrl-C 130 and SIGTERM 143.
    """

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        main()
    except CnlabError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "; free some space there and run the same command again" if full else ""
        print(f"error: {error.strerror or error}: {error.filename or ''}{way_out}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, _Terminated) else 130) from None
    raise SystemExit(0)
