"""The console command `selfspec`: fast help, one sentence for each error, and the commands that need no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from command import selfspec, selfspec_process
from conftest import PROJECT
from selfspec.cli import compose
from selfspec.cli.compose import compose_experiment, conf_folder, project_folder
from selfspec.cli.help import help_text
from selfspec.cli.store import default_root
from selfspec.runtime.store import Store

COMMANDS = ["run", "domain", "export", "report", "store", "fetch"]
HEAVY = {"torch", "transformers", "hydra", "omegaconf", "plotly", "pandas", "numpy", "wandb", "rich"}


def test_help_lists_the_commands_on_one_screen() -> None:
    ended = selfspec("--help")
    assert ended.returncode == 0 and len(ended.stdout.splitlines()) <= 24
    listed = [line.split()[0] for line in ended.stdout.partition("Commands:\n")[2].splitlines()]
    assert listed == COMMANDS
    assert "..." not in ended.stdout.partition("Commands:\n")[2]  # no description is cut off


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_of_every_command_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from selfspec.cli.app import main\n"
        "try: main()\n"
        f"finally: assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "selfspec: " if arguments[0] == "run" else f"Usage: {' '.join(['selfspec', *arguments[:-1]])}"
    )


def test_the_console_script_is_the_main_function() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"selfspec": "selfspec.cli.app:main"}
    help_of_module = selfspec_process("--help")
    assert (help_of_module.returncode, help_of_module.stdout) == (0, selfspec("--help").stdout)


def test_run_passes_its_arguments_to_hydra(tmp_path: Path) -> None:
    arguments = ["--config-dir", str(tmp_path), "lora=r16", "data_size=7", "--cfg", "job", "--package=data_size"]
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain" / "law.yaml").write_text("# Law: contracts.\n")
    ended = selfspec_process("run", *arguments, cwd=tmp_path)
    command = [sys.executable, str(PROJECT / "run.py"), *arguments]
    expected = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (ended.returncode, ended.stdout) == (0, expected.stdout)
    assert "examples: 7" in ended.stdout
    folders = [PROJECT / "conf", tmp_path]
    assert selfspec("run", "--config-dir", tmp_path, "--help").stdout == help_text(folders) + "\n"
    assert "Law: contracts." in selfspec("run", "-cd", tmp_path, "-h").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "lora=r9"], "There is no lora=r9; give any rank with lora.r=9"),
        (["fetch", "model=falcon-41b"], "There is no model=falcon-41b; did you mean 'falcon-40b'?"),
        (["domain", "check", "finances"], "There is no domain=finances; did you mean 'finance'?"),
        (["domain", "preview", "finance", "lora.r="], "lora.r: "),
        (["store", "ls", "--root", "nowhere"], "nowhere is not a store; give its folder with --root."),
        (["store", "gc", "--root", "nowhere"], "nowhere is not a store; give its folder with --root."),
        (["export", "nowhere", "out"], "nowhere holds no run"),
        (["report", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_user_error_is_one_sentence_and_exit_code_1(arguments: list[str], message: str) -> None:
    ended = selfspec_process(*arguments)
    assert ended.returncode == 1 and message in ended.stderr, ended.stderr
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["exports"], "Did you mean 'export'"), (["export", "run"], "Missing argument"), (["store", "rm"], "'rm'")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_shows_the_usage_and_exits_with_2(arguments: list[str], message: str) -> None:
    ended = selfspec(*arguments)
    assert ended.returncode == 2 and message in ended.stderr and ended.stderr.startswith("Usage: selfspec")


def test_hydra_full_error_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ended = selfspec_process("fetch", "model=falcon-41b")
    assert ended.returncode == 1 and "Traceback" in ended.stderr and "MissingConfigException" in ended.stderr


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two finished outputs, one set aside, and files of killed processes."""
    root = tmp_path / "store"
    for key in ("one", "two", "broken"):
        Store(root).make("scores", key, {"counts": {"answers": 3}}, lambda work, output: write_answers(output))
    (root / "scores" / "broken" / "answers.jsonl").write_text("other")
    Store(root).find("scores", "broken")
    for key in ("one", "unfinished"):
        leave_killed_work(root, key)
    return root


def leave_killed_work(root: Path, key: str) -> None:
    """Scratch, draft and lock of a process that was killed while it made `key`."""
    pid = os.fork()
    if pid == 0:
        with Store(root).claim(key):
            (root / "work" / f"{key}.draft").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def write_answers(output: Path) -> None:
    (output / "answers.jsonl").write_text(json.dumps({"id": 1}))


def test_store_ls_lists_finished_outputs(store: Path) -> None:
    ended = selfspec("store", "ls", "--root", store)
    about, heads, first, second = ended.stdout.splitlines()
    assert about.startswith(f"The store {store} has 2 outputs of ")
    assert heads.split() == ["stage", "domain", "model", "settings", "size", "date", "runs", "key"]
    assert ended.returncode == 0 and {first.split()[-1], second.split()[-1]} == {"one", "two"}
    listed = json.loads(selfspec("store", "ls", "--root", store, "--json").stdout)
    assert {(row["stage"], row["key"]) for row in listed} == {("scores", "one"), ("scores", "two")}


def test_the_default_store_is_that_of_runs_wherever_the_command_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(default_root()) == compose_experiment([]).paths.store
    ended = selfspec("store", "ls")
    assert str(PROJECT / "store") in ended.stdout + ended.stderr


@pytest.mark.parametrize(("shorthand", "count"), [("data_size=100", 100), ("data_size=2k", 2000)])
def test_shorthand_is_expanded_for_every_command(shorthand: str, count: int) -> None:
    assert compose_experiment([shorthand]).data_size.examples == count
    assert compose_experiment([shorthand, "rounds=2"]).rounds.count == 2


def test_store_verify_names_damaged_outputs(store: Path) -> None:
    ended = selfspec("store", "verify", "--root", store)
    assert ended.returncode == 0 and [line.split()[-1] for line in ended.stdout.splitlines()] == ["intact", "intact"]
    (store / "scores" / "two" / "answers.jsonl").write_text("other")
    ended = selfspec("store", "verify", "--root", store)
    assert ended.returncode == 1 and "two" in ended.stdout.splitlines()[1]
    assert ended.stdout.splitlines()[1].endswith("answers.jsonl differs from its hash")
    assert ended.stderr.startswith("1 damaged; a run that needs them")


def test_store_gc_keeps_scratch_of_unfinished_outputs(store: Path) -> None:
    ended = selfspec("store", "gc", "--root", store)
    assert (ended.returncode, ended.stdout) == (0, "removed 4 folders\n")
    assert not any((store / "aside").iterdir())
    assert {path.name for path in (store / "work").iterdir() if path.is_dir()} == {"unfinished"}
    assert {path.name for path in (store / "scores").iterdir()} == {"one", "two"}


def test_conf_is_that_of_the_checkout_or_of_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conf_folder() == PROJECT / "conf" and project_folder(conf_folder()) == PROJECT
    wheel = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"conf": "selfspec/conf"}
    (tmp_path / "selfspec").mkdir()
    (tmp_path / "selfspec" / "conf").symlink_to(PROJECT / "conf")
    monkeypatch.setattr(compose, "PACKAGE", tmp_path / "selfspec")
    monkeypatch.chdir(tmp_path)
    assert conf_folder() == tmp_path / "selfspec" / "conf" and project_folder(conf_folder()) == tmp_path
    assert compose_experiment([]).paths.store == str(tmp_path / "store")
