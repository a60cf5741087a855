"""Weights of GGUF files: converted once into the cache, by one process at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from selfspec.models import weights
from selfspec.models.weights import locate_weights
from selfspec.runtime.leases import hold_lease
from selfspec.runtime.progress import Progress
from toys import model_config


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The GGUF files that were converted; the conversion only writes their names."""
    converted: list[Path] = []

    def write_name(gguf: Path, folder: Path, step: Any) -> None:
        converted.append(gguf)
        (folder / "model.safetensors").write_text(gguf.name)

    monkeypatch.setattr(weights, "convert_gguf", write_name)
    return converted


def write_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with several GGUF files, written in the reverse order of their names."""
    (folder / "weights_of_test").mkdir()
    (folder / "weights_of_test" / "__init__.py").touch()
    for name in ("d", "c", "b", "a"):
        (folder / "weights_of_test" / f"{name}.gguf").write_text(name)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(weights, "weights_identity", lambda model: "weights-of-test")


def test_the_first_file_of_a_package_by_name_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[Path]
) -> None:
    write_package(tmp_path, monkeypatch)
    model = model_config("gemma-3-270m", toy=False, package="weights-of-test")
    (folder,) = {locate_weights(model, tmp_path / "cache", Progress()) for _ in range(2)}
    assert [path.name for path in conversions] == ["a.gguf"]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {folder.name}


def test_a_killed_conversion_leaves_nothing_after_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[Path]
) -> None:
    write_package(tmp_path, monkeypatch)
    model = model_config("gemma-3-270m", toy=False, package="weights-of-test")
    folder = locate_weights(model, tmp_path / "cache", Progress())
    folder.rename(folder.with_name(f"{folder.name}.draft"))
    assert locate_weights(model, tmp_path / "cache", Progress()) == folder
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {folder.name} and len(conversions) == 2


def hold_for_a_moment(path: Path, is_held: threading.Event) -> None:
    with hold_lease(path):
        is_held.set()
        time.sleep(0.6)


def test_a_process_says_that_it_waits_for_the_conversion_of_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(tmp_path, monkeypatch)
    model = model_config("gemma-3-270m", toy=False, package="weights-of-test")
    folder = locate_weights(model, tmp_path / "cache", Progress())
    folder.rename(tmp_path / "moved")
    is_held = threading.Event()
    other = threading.Thread(target=hold_for_a_moment, args=(Path(f"{folder}.lock"), is_held))
    other.start()
    is_held.wait()
    assert locate_weights(model, tmp_path / "cache", Progress()) == folder
    other.join()
    assert f"Another process holds {folder.name}; waiting for it." in capsys.readouterr().err
