"""Bad input, in one line, and how command lines end."""

from __future__ import annotations

import errno
import sys
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


def run_cli(main: Callable[[], None]) -> NoReturn:
    """Run a command line: CnlabError and full disks end in one line and status 2 (75: folder in use), Ctrl-C in 130."""
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
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(0)
