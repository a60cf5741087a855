"""Leases: one process at a time works on a key, on any node that shares the file system.

A lease is a file with a heartbeat. File locks would not do: on many clusters they exclude processes of one node only.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from selfspec.errors import explain_disk_errors

LEASE_SECONDS = 120.0  # a holder on another node without a heartbeat for so long counts as dead


@contextlib.contextmanager
def hold_lease(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lease of `path`, which ends in `.lock`; wait while another process holds it.

    Args:
        path: The lease's file.
        check: Called about once a second while waiting; may raise.
    """
    lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, poll_interval=0.05)
    with explain_disk_errors(path.parent):
        try:
            lease.acquire(timeout=0.2)  # long enough to take over from a dead process of this machine
        except Timeout:
            print(f"Another process holds {path.stem}; waiting for it.", file=sys.stderr)
            while not lease.is_locked:
                check()
                with contextlib.suppress(Timeout):
                    lease.acquire(timeout=1)
    try:
        yield
    finally:
        lease.release()
