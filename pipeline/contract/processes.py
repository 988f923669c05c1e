"""Processes that end when the one that started them is gone."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from pipeline.contract.errors import CnlabError


@contextmanager
def process_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``count`` fresh processes, which end at once when the block ends in an error or is stopped.

    Those of concurrent.futures finish everything that is queued first, and wait for ever when their parent is killed,
    with the memory of a card.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            for process in (pool._processes or {}).values():  # Python 3.14: pool.terminate_workers()
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Commands:
    """Commands that threads of this process wait for, all of which can be stopped."""

    def __init__(self) -> None:
        self._lock, self._running, self._stopped = threading.Lock(), set[subprocess.Popen[bytes]](), False

    def run(self, command: Sequence[str], **options: Any) -> int:
        """The exit status of ``command``, run to its end; ``options`` of subprocess.Popen. CnlabError once stopped."""
        with self._lock:
            if self._stopped:
                raise CnlabError("stopped")
            child = subprocess.Popen(command, **options)
            self._running.add(child)
        try:
            return child.wait()
        finally:
            self._running.discard(child)

    def stop(self) -> None:
        """Ask those that run to end (SIGTERM) and start no more."""
        with self._lock:
            self._stopped = True
            for child in tuple(self._running):
                child.terminate()
