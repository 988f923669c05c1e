"""Where blocks are built: a local Dask cluster, somebody's running one, or this process."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Protocol

from pipeline.config import BuildPlan
from pipeline.contract.errors import CnlabError

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
#: Imported once, by the process that workers are forked from; the last ones are otherwise imported at first use.
PRELOAD = (
    "distributed",
    "pipeline.build.blocks",
    "tyro",
    "imagehash",
    "scipy.fftpack",
    "skimage.measure._blur_effect",
)
#: One thread a worker; and glibc keeps freed memory rather than handing every picture's back to the system. Dask's own
#: default (MALLOC_TRIM_THRESHOLD_ 65536) makes workers take nearly twice the time, all of it page faults.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the largest that glibc accepts
}
DASK = {
    "distributed.worker.multiprocessing-method": METHOD,
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    "distributed.worker.daemon": True,
    "distributed.worker.profile.enabled": False,  # a sample every 10 ms, kept as long as the worker lives
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "500ms",  # how often event loops measure their own delay; 20 ms by default
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.scheduler.active-memory-manager.start": False,  # results are a few kB and fetched at once
    "distributed.scheduler.allowed-failures": 10,  # a killed worker is started again and its blocks are repeated
}


class Pool(Protocol):
    """Calls functions, and hands results back in the order in which they are finished."""

    @property
    def width(self) -> int:
        """How many calls to keep under way, so that nobody waits for work."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Ask for a call."""

    def result(self) -> Any:
        """What a finished call returned; waits for one. Raises what the call raised."""


class LocalPool:
    """Calls in this process, one after the other."""

    width = 1

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """See `Pool`."""
        self._calls.append((function, arguments))

    def result(self) -> Any:
        """See `Pool`."""
        function, arguments = self._calls.popleft()
        return function(*arguments)


class DaskPool:
    """Calls by the workers of a Dask client."""

    def __init__(self, client: Any) -> None:
        from distributed import as_completed

        self._client, self._done = client, as_completed(with_results=True)

    @property
    def width(self) -> int:
        """Two calls a thread: one is computed, one waits. Workers may come and go."""
        return max(2, 2 * int(sum(self._client.nthreads().values())))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """See `Pool`."""
        self._done.add(self._client.submit(_alone, function, *arguments, pure=False))

    def result(self) -> Any:
        """See `Pool`."""
        future, result = next(self._done)
        future.release()  # or the scheduler keeps every result
        return result


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call with one thread: there is a worker a core, and more threads only wait for each other."""
    import cv2
    import pyarrow as pa

    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    return function(*arguments)


def stream(pool: Pool, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Call ``function`` on each of ``arguments``, never more than the pool's width at once; results as finished."""
    in_flight = 0
    for each in arguments:
        pool.submit(function, *each)
        in_flight += 1
        while in_flight >= pool.width:
            yield pool.result()
            in_flight -= 1
    for _ in range(in_flight):
        yield pool.result()


def _start_forkserver() -> None:
    """Import what workers need once, in the process that they are forked from."""
    import distributed.utils

    distributed.utils._forkserver_preload_set = True  # or Dask preloads pandas and more into every worker
    if METHOD != "forkserver":
        return
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(list(PRELOAD))
    # safe path and PYTHONPATH: modules come from where this process has them, not from the working folder
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)  # noqa: PTH100 (entries may be zip files or empty)
    with _environment({**ENVIRONMENT, "PYTHONSAFEPATH": "1", "PYTHONPATH": path}):
        forkserver.ensure_running()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def open_pool(plan: BuildPlan) -> Iterator[Pool]:
    """The pool that ``plan`` asks for. Raises CnlabError when its scheduler does not answer."""
    if not plan.workers and not plan.scheduler:
        yield LocalPool()
        return
    with dask_client(plan) as client:
        hint = "" if find_spec("bokeh") else " (its pages need the package bokeh)"
        print(f"Dask dashboard: {client.dashboard_link}{hint}", flush=True)
        yield DaskPool(client)


@contextlib.contextmanager
def dask_client(plan: BuildPlan) -> Iterator[Any]:
    """A client of the given scheduler, or of a local cluster of ``workers`` single-threaded processes."""
    import dask
    from distributed import Client, LocalCluster

    if plan.scheduler:
        try:
            with Client(plan.scheduler, timeout="10s") as client:
                yield client
        except (OSError, TimeoutError) as error:
            raise CnlabError(f"no Dask scheduler answers at {plan.scheduler}: {error}") from error
        return
    _start_forkserver()
    with (
        dask.config.set(DASK),
        _environment(ENVIRONMENT),  # nannies set it for good
        LocalCluster(
            n_workers=plan.workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
