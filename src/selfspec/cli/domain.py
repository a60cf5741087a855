"""`selfspec domain check|preview`: check the files of a domain, or print its prompts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from hydra import compose, initialize_config_dir
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfspec.config.composition import freeze, register_schema
from selfspec.config.error_messages import error_message
from selfspec.config.resolvers import register_resolvers
from selfspec.config.schema import Config
from selfspec.config.validation import validate
from selfspec.data.text import words
from selfspec.domains.check import Findings, Line, check_domain, describe_answers, group_by_task
from selfspec.errors import UserError

PROJECT = Path(__file__).parents[3]  # of the checkout, which holds conf/


def main() -> None:
    """Exit 1 when a domain has complaints, or can't be composed."""
    arguments = _parser().parse_args()
    folder, console = arguments.config_dir, Console(highlight=False)
    try:
        if folder and not folder.is_dir():
            raise UserError(f"--config-dir {folder} is no folder; give the one that holds domain/<name>.yaml.")
        if arguments.command == "preview":
            from selfspec.domains.preview import show_preview

            model = [f"model={arguments.model}"] if arguments.model else []
            show_preview(compose_domain(arguments.name, folder, *model, *arguments.overrides), arguments.task, console)
            return
        found = [_print_findings(compose_domain(name, folder), console) for name in arguments.names]
    except Exception as error:
        sys.exit(error_message(error, [PROJECT / "conf", *([folder] if folder and folder.is_dir() else [])]))
    sys.exit(int(any(findings.complaints for findings in found)))


def compose_domain(domain: str, folder: Path | None, *overrides: str) -> Config:
    """The default experiment on a domain, as `run.py --config-dir FOLDER domain=DOMAIN` would compose it."""
    register_schema()
    register_resolvers(PROJECT)
    own = [f"domain={domain}", "paths.output=."]
    if folder:
        own.append(f"hydra.searchpath=['file://{folder.absolute()}']")
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        return validate(freeze(compose("config", overrides=[*own, *overrides])))


def _parser() -> argparse.ArgumentParser:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="selfspec domain", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="complain of seeds and questions, by file and line")
    checking.add_argument("names", nargs="+", metavar="NAME", help="of domains: conf/domain/NAME.yaml")
    showing = commands.add_parser("preview", help="print the prompts that a model will see, with token counts")
    showing.add_argument("name", metavar="NAME", help="of a domain")
    showing.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the experiment: retrieval=bm25")
    showing.add_argument("--model", help="an option of the group model; the default experiment's without it")
    showing.add_argument("--task", help="a task type, for the prompts of evaluation; the first without it")
    for command in (checking, showing):
        command.add_argument("--config-dir", type=Path, metavar="DIR", help="your own options, as run.py takes it")
    return parser


def _print_findings(settings: Config, console: Console) -> Findings:
    """What was found, on the terminal: a table a file, then complaints, then notes."""
    found, name = check_domain(settings), settings.domain.name
    for what, some, held_out in (("seeds", found.seeds, found.held_out), ("questions", found.questions, set[str]())):
        if some:
            _print_table(f"{name}, {what}", group_by_task(some), held_out, console)
    for complaint in found.complaints:
        console.out(complaint, style="red", highlight=False)
    for note in found.notes:
        console.out(f"note: {note}", highlight=False)
    console.out(
        f"{name}: {_count_of(found.complaints, 'complaint')}, {_count_of(found.notes, 'note')}", highlight=False
    )
    return found


def _count_of(found: Sequence[str], what: str) -> str:
    return f"{len(found) or 'no'} {what}{'' if len(found) == 1 else 's'}"


def _print_table(title: str, groups: dict[str, list[Line]], held_out: set[str], console: Console) -> None:
    """A line a task type (`held out` for seeds alone), and below how often each label is the answer."""
    console.out(f"{title} (words of input and answer: the median, the fewest and the most)", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("task type", "kind", "rows", *(["held out"] if held_out else []), "input", "answer"):
        table.add_column(name, no_wrap=True)
    for task, mine in groups.items():
        hidden = [str(sum(line.row.id in held_out for line in mine))] if held_out else []
        lengths = (_lengths(line.row.input for line in mine), _lengths(line.row.answers[0] for line in mine))
        table.add_row(*map(Text, (task, mine[0].kind, str(len(mine)), *hidden, *lengths)))
    console.print(table)
    for task, mine in groups.items():
        if told := describe_answers(mine):
            console.out(f"  {task}: {told}", highlight=False)
    console.print()


def _lengths(texts: Iterable[str]) -> str:
    """`41 (12-80)`: the median, the shortest and the longest, in words."""
    counts = [len(words(text)) for text in texts]
    return f"{median(counts):.0f} ({min(counts)}-{max(counts)})"


if __name__ == "__main__":
    main()
