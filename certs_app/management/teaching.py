"""Commands whose --help ends in examples that can be copied."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser, DjangoHelpFormatter

_HEADING = "examples:\n"


class _KeepsExamples(DjangoHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_HEADING):
            return RawDescriptionHelpFormatter._fill_text(self, text, width, indent)
        return super()._fill_text(text, width, indent)


Examples = tuple[tuple[str, str], ...]


def epilog(command: str, examples: Examples) -> dict[str, Any]:
    """Return what makes the --help of a parser, also that of an action of a command, end in these examples."""
    lines = [f"  {sentence}\n    manage.py {command} {arguments}" for sentence, arguments in examples]
    return {"epilog": _HEADING + "\n".join(lines), "formatter_class": _KeepsExamples}


class TeachingCommand(BaseCommand):
    """A command with `examples`: pairs of a sentence and the arguments that do what it says."""

    examples: Examples = ()

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, **{**epilog(subcommand, self.examples), **options})
