"""Where blocks are built: a local Dask cluster, somebody's running one, or this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.config import DatasetConfig
from pipeline.io import CnlabError

Runner = Callable[[Callable[..., Any], list[tuple[Any, ...]]], Iterator[Any]]


@contextlib.contextmanager
def runner(config: DatasetConfig) -> Iterator[Runner]:
    """Something that calls a function on each of a list of arguments and yields each result as it is finished."""
    if not config.workers and not config.scheduler:
        yield lambda function, arguments: (function(*a) for a in arguments)
        return
    with dask_client(config) as client:
        print(f"Dask dashboard: {client.dashboard_link}", flush=True)

        def run(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> Iterator[Any]:
            from distributed import as_completed

            futures = [client.submit(function, *a, pure=False) for a in arguments]
            for batch in as_completed(futures, with_results=True).batches():
                for future, result in batch:
                    future.release()  # or the scheduler keeps every result for as long as the list lives
                    yield result

        yield run


@contextlib.contextmanager
def dask_client(config: DatasetConfig) -> Iterator[Any]:
    """A client of the given scheduler, or of a local cluster of ``workers`` single-threaded processes."""
    import dask
    from distributed import Client, LocalCluster

    if config.scheduler:
        try:
            with Client(config.scheduler, timeout="10s") as client:
                yield client
        except (OSError, TimeoutError) as error:
            raise CnlabError(f"no Dask scheduler answers at {config.scheduler}: {error}") from error
        return
    quiet = {
        "distributed.worker.daemon": True,
        "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.scheduler.allowed-failures": 10,  # a killed worker is started again and its blocks are repeated
    }
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=config.workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
