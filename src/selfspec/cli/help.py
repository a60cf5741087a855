"""`--help` of the experiment command: every group with its options, read from conf/ alone."""

from __future__ import annotations

from pathlib import Path

USAGE = """\
selfspec: tune a base language model on domain data that it writes itself (self-specialization, arXiv 2310.00160)

  python run.py                                    the default experiment, from seeds to report
  python run.py domain=finance lora=r16            choose options of groups
  python run.py data_size=300 tuning.epochs=2      set any value, any number of examples
  python run.py debug=smoke                        every step in seconds, on a toy model
  python run.py -m experiment=lora_rank            a prepared sweep
  python run.py --cfg job                          the composed config
  python run.py --config-dir my_confs domain=law   your own options, in your own folder
"""


def help_text(folders: list[Path]) -> str:
    """Every group with its options, each with the first comment of its YAML."""
    lines = [USAGE, "Groups and their options:"]
    for group in sorted(
        {str(path.parent.relative_to(folder)) for folder in folders for path in folder.glob("*/**/*.yaml")}
    ):
        lines.append(f"\n  {group}=")
        for path in sorted(
            (path for folder in folders for path in (folder / group).glob("*.yaml")), key=_natural_order
        ):
            lines.append(f"    {path.stem:<18} {_first_comment(path)}")
    lines.append("\nSingle values: seed, baselines.seeds_only, model.toy, model.path, paths.store, paths.cache, ...")
    return "\n".join(lines)


def _first_comment(path: Path) -> str:
    """The first comment of a YAML (Hydra wants `@package` above it)."""
    with path.open(encoding="utf-8") as file:
        comments = (line.lstrip("# ").strip() for line in file)
        return next((text for text in comments if not text.startswith("@package")), "")


def _natural_order(path: Path) -> tuple[int, str]:
    """`500` before `1k`, `r8` before `r16`; names without a number come first."""
    digits = path.stem.strip("rk")
    return (int(digits) * (1000 if path.stem.endswith("k") else 1) if digits.isdigit() else -1, path.stem)
