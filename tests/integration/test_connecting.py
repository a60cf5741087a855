"""Processes of one stage that do not reach each other say where they wait, and stop."""

from __future__ import annotations

import os
import subprocess
import sys

JOIN = """
import sys
from selfspec.errors import UserError
from selfspec.runtime.distributed import join_process_group
try:
    with join_process_group() as group:
        print(group.all_reduce_max(group.rank))
except UserError as error:
    sys.exit(str(error))
"""
SOON = {"SELFSPEC_CONNECT_SECONDS": "1"}


def start(rank: int, address: str, port: str, **more: str) -> subprocess.Popen[str]:
    """Start one of two processes."""
    place = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    env = {**os.environ, **place, "MASTER_ADDR": address, "MASTER_PORT": port, **more}
    command = [sys.executable, "-c", JOIN]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_connect_and_the_first_says_where(unused_port: str) -> None:
    processes = [start(rank, "127.0.0.1", unused_port) for rank in (0, 1)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in outputs] == ["1", "1"]
    assert f"Waiting for 2 processes at 127.0.0.1:{unused_port}." in outputs[0][1]


def test_a_process_whose_partner_never_comes_names_the_address_and_what_to_set(unused_port: str) -> None:
    _, error = start(0, "127.0.0.1", unused_port, **SOON).communicate(timeout=120)
    sentence = error.splitlines()[-1]
    assert f"Process 1 of 2 could not connect to the others at 127.0.0.1:{unused_port} within 1 s" in sentence
    assert "set MASTER_ADDR" in sentence and "GLOO_SOCKET_IFNAME" in sentence


def test_a_name_that_no_server_knows_is_named(unused_port: str) -> None:
    _, error = start(1, "node1.invalid", unused_port, **SOON).communicate(timeout=120)
    sentence = error.splitlines()[-1]
    assert f"Process 2 of 2 could not connect to the others at node1.invalid:{unused_port}" in sentence
