"""The command line: `--help` from conf/ alone, then Hydra, and every error a user can mend as one sentence."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from selfspec.errors import Interrupted

KEPT = "Stopped by {}; what was finished is kept, and the same command goes on from there."
USAGE = """\
selfspec: carve an expert out of a generalist language model (self-specialization, arXiv 2310.00160)

  python run.py                                    the default experiment, from seeds to report
  python run.py domain=finance lora=r16            choose options of groups
  python run.py data_size=300 tuning.epochs=2      set any value, any number of examples
  python run.py debug=smoke                        every step in seconds, on a toy model
  python run.py -m experiment=lora_rank            a prepared sweep
  python run.py --cfg job                          the composed config
  python run.py --config-dir my_confs domain=law   your own options, in your own folder
"""


def main(conf: Path) -> None:
    """Answer `--help`, or compose the config and run the experiment; exit 1 with one sentence on a user's error."""
    arguments = sys.argv[1:] = [part for argument in sys.argv[1:] for part in spelled(argument)]
    if "--help" in arguments or "-h" in arguments:
        print(help_text([conf, *_config_dirs(arguments)]))
        return
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        _hydra(conf)
    except KeyboardInterrupt:
        _fail(KEPT.format("SIGINT"), 130)
    except Interrupted as error:
        _fail(KEPT.format(error), 128 + int(getattr(signal, str(error))))
    except Exception as error:
        if full_error:
            raise
        from selfspec.door import explain

        _fail(explain(error, [conf, *_config_dirs(arguments)]), 1)


def spelled(argument: str) -> list[str]:
    """What users type, as Hydra spells it.

    `data_size=100` is `data_size.examples=100`, `rounds=2` is `rounds.count=2`: Hydra takes no number for an option. A
    size's option is named beside it: it takes the place of the sizes that an experiment sweeps.
    `evaluation.domain=finance` is the group `domain`, put where the scores look. `plan.force=true` is a key of its own,
    since `plan` is one.
    """
    group, _, values = argument.partition("=")
    sizes = values.split(",")
    if group == "plan.force":
        return [f"force={values}"]
    if group == "evaluation.domain":
        return [f"+domain@evaluation.domain={values}"]
    if group == "rounds" and all(size.isdigit() for size in sizes):
        return [f"rounds.count={values}"]
    if group != "data_size" or not any(size.isdigit() for size in sizes):
        return [argument]
    plain = [f"{size[:-1]}000" if size[:-1].isdigit() and size.endswith("k") else size for size in sizes]
    return ["data_size=default", f"data_size.examples={','.join(plain)}"]


def help_text(folders: list[Path]) -> str:
    """Every group with its options, each with the first comment of its YAML."""
    lines = [USAGE, "Groups and their options:"]
    for group in sorted(
        {str(path.parent.relative_to(folder)) for folder in folders for path in folder.glob("*/**/*.yaml")}
    ):
        lines.append(f"\n  {group}=")
        for path in sorted((path for folder in folders for path in (folder / group).glob("*.yaml")), key=_natural):
            lines.append(f"    {path.stem:<18} {_about(path)}")
    lines.append("\nSingle values: seed, baselines.seeds_only, model.toy, model.path, paths.store, paths.cache, ...")
    return "\n".join(lines)


def _about(path: Path) -> str:
    """The first comment of a YAML (Hydra wants `@package` above it)."""
    with path.open(encoding="utf-8") as file:
        comments = (line.lstrip("# ").strip() for line in file)
        return next((text for text in comments if not text.startswith("@package")), "")


def _natural(path: Path) -> tuple[int, str]:
    """`500` before `1k`, `r8` before `r16`; names without a number come first."""
    digits = path.stem.strip("rk")
    return (int(digits) * (1000 if path.stem.endswith("k") else 1) if digits.isdigit() else -1, path.stem)


def _config_dirs(arguments: list[str]) -> list[Path]:
    """Folders given by `--config-dir DIR` or `--config-dir=DIR`."""
    found = []
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(Path(value or (arguments[place + 1 : place + 2] or [""])[0]))
    return [path for path in found if path.is_dir()]


def _hydra(conf: Path) -> None:
    import hydra

    from selfspec import config, experiment
    from selfspec.resolvers import register

    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        os.environ[experiment.TRACEBACK] = "1"
    chosen = [text for text in sys.argv[1:] if "=" in text and not text.startswith(("hydra.", "paths."))]
    os.environ[experiment.TYPED] = " ".join(sorted(chosen))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `main` as they are
    config.register()
    register(conf.parent)
    hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(experiment.task)()


def _fail(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(code)
