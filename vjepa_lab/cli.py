"""Command line: ``vjepa-lab VERB [file.yaml ...] [key=value ...] [--show] [--debug]``.

A verb is a config class and a function named by string, imported when the verb runs: ``--help`` needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Verb(NamedTuple):
    """One command."""

    config: str
    function: str
    summary: str
    example: str


VERBS = {
    "pretrain": Verb(
        "PretrainConfig",
        "vjepa_lab.train.run:pretrain",
        "train a video encoder by masked latent prediction (cooldown: the same with another YAML)",
        "vjepa-lab pretrain configs/quickstart.yaml optim.steps=200",
    ),
}

_USAGE = """usage: vjepa-lab VERB [file.yaml ...] [key=value ...] [options]

verbs:
{verbs}

options:
  --show       print the resolved configuration and exit
  --debug      show the traceback of an error
  --help       this text; after a verb: every field, its default and its meaning
  --version    print the version

Files are merged left to right over the defaults, key=value arguments over the files.
  {example}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``vjepa-lab``. Returns the exit code: 0 done, 2 a mistake in what was asked, 75 stopped by a
    signal with a checkpoint written (run the same command again to go on)."""
    args = list(sys.argv[1:] if argv is None else argv)
    flags = {a for a in args if a.startswith("-")}
    words = [a for a in args if not a.startswith("-")]
    if "--version" in flags:
        from vjepa_lab import __version__

        return _say(f"vjepa_lab {__version__}")
    wants_help = bool(flags & {"--help", "-h"})
    if not words:
        return _say(_usage()) if wants_help or not args else _fail("no verb given\n" + _usage())
    if words[0] not in VERBS:
        return _fail(_unknown_verb(words[0]))
    verb = VERBS[words[0]]
    unknown = flags - {"--help", "-h", "--show", "--debug"}
    if unknown:
        return _fail(f"unknown option {', '.join(sorted(unknown))}; see vjepa-lab --help")
    if wants_help:
        return _say(_verb_help(words[0], verb))
    return _run(verb, words[1:], show="--show" in flags, debug="--debug" in flags)


def _run(verb: Verb, words: list[str], *, show: bool, debug: bool) -> int:
    from vjepa_lab import config as configs
    from vjepa_lab import merge
    from vjepa_lab.validate import validate

    try:
        files = [w for w in words if "=" not in w]
        config = merge.load(getattr(configs, verb.config), files, [w for w in words if "=" in w])
        if show:
            return _say(merge.to_yaml(config))
        validate(config)
        module, _, function = verb.function.partition(":")
        return getattr(importlib.import_module(module), function)(config) or 0
    except (ValueError, OSError) as error:
        if debug:
            raise
        return _fail(f"{error}\n(--debug shows where)" if not isinstance(error, configs.ConfigError) else str(error))


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}   {verb.summary}" for name, verb in VERBS.items())
    return _USAGE.format(verbs=verbs, example=VERBS["pretrain"].example)


def _verb_help(name: str, verb: Verb) -> str:
    from vjepa_lab import config as configs
    from vjepa_lab import merge, registry

    lines = [f"vjepa-lab {name}: {verb.summary}", f"  {verb.example}", "", "fields (default): meaning"]
    for key, default, doc in merge.fields_with_docs(getattr(configs, verb.config)):
        lines.append(f"  {key} ({default})" + (f": {doc}" if doc else ""))
    for kind in (registry.MASKS, registry.SOURCES, registry.PROBES):
        lines.append(f"{kind.kind}s: {', '.join(kind.names())}")
    return "\n".join(lines)


def _unknown_verb(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, VERBS, 1)
    return f"unknown verb '{word}'; " + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(VERBS)}")


def _say(text: str) -> int:
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(f"vjepa-lab: error: {text}\n")
    return 2
