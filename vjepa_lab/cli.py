"""Command line: ``vjepa-lab VERB [words and files ...] [key=value ...] [--show] [--debug]``.

A verb is a config class and a function named by string, imported when the verb runs: ``--help`` needs no torch.
``--key value`` is another way to write ``key=value``. Some verbs take one word that is no YAML file: the file to look
at, say; it is a field like the others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """One command."""

    config: str
    "module:class"
    function: str
    summary: str
    example: str
    word: str = ""
    "field that takes the word which is no YAML file"
    show: str = ""
    "module:function that gives the text of --show for a checked configuration; empty: the resolved configuration"


VERBS = {
    "pretrain": Verb(
        "config:PretrainConfig",
        "vjepa_lab.train.run:pretrain",
        "train a video encoder by masked latent prediction (cooldown: the same with another YAML)",
        "vjepa-lab pretrain configs/quickstart.yaml optim.steps=200",
    ),
    "posttrain": Verb(
        "config_world:PosttrainConfig",
        "vjepa_lab.train.posttrain:posttrain",
        "train an action-conditioned world model on robot episodes, over a frozen encoder",
        "vjepa-lab posttrain configs/posttrain/droid-vitg-256.yaml",
    ),
    "plan": Verb(
        "config_world:PlanConfig",
        "vjepa_lab.planning.mpc:main",
        "reach image goals with a world model in a simulated arm, and draw its energy",
        "vjepa-lab plan --checkpoint runs/posttrain --out runs/plan",
    ),
    "probe": Verb(
        "config_probe:ProbeConfig",
        "vjepa_lab.probes._verb:main",
        "measure what a frozen encoder knows, beside controls and baselines",
        "vjepa-lab probe runs/quickstart/last.ckpt --report report.html",
        word="checkpoint",
    ),
    "ablate": Verb(
        "config_ablate:AblateConfig",
        "vjepa_lab.ablate:main",
        "compare arms of a pretraining over seeds, all else equal and checked; --show prints the plan",
        "vjepa-lab ablate configs/ablate/masks.yaml",
        show="vjepa_lab.ablate:show",
    ),
    "masks": Verb(
        "config_masks:MasksConfig",
        "vjepa_lab.maskview._verb:main",
        "draw what mask strategies see and hide of a clip, with figures",
        "vjepa-lab masks clip.mp4 --strategy interaction_blocks,multiblock --out masks.html",
        word="clip",
    ),
    "inspect": Verb(
        "config:InspectConfig",
        "vjepa_lab.weights.inspect:main",
        "say what a file of weights holds: family, sizes, heads, resolution, step",
        "vjepa-lab inspect runs/quickstart/last.ckpt",
        word="file",
    ),
    "export": Verb(
        "config:ExportConfig",
        "vjepa_lab.weights.export:main",
        "write the weights of a run in the released layout, for Hugging Face, or as safetensors",
        "vjepa-lab export runs/quickstart --to safetensors",
        word="run",
    ),
    "embed": Verb(
        "config:EmbedConfig",
        "vjepa_lab.curation.embed:main",
        "write the features of a list of videos, in shards; the same command goes on after a stop",
        "vjepa-lab embed videos.csv --checkpoint runs/quickstart/last.ckpt --out features",
        word="videos",
    ),
}
_FLAGS = {"--help", "-h", "--show", "--debug", "--version"}

_USAGE = """usage: vjepa-lab VERB [word] [file.yaml ...] [key=value ...] [options]

verbs:
{verbs}

options:
  --show       print the resolved configuration, or the plan of an ablation, and exit
  --debug      show the traceback of an error
  --help       this text; after a verb: every field, its default and its meaning
  --version    print the version

Files are merged left to right over the defaults, key=value arguments over the files; --key value is key=value.
{examples}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``vjepa-lab``. Returns the exit code: 0 done, 2 a mistake in what was asked, 3 stopped by the
    collapse watch, 75 stopped by a signal with a checkpoint written (run the same command again to go on), 130 broken
    off by Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        flags, words = _split(args)
    except ValueError as error:
        return _fail(str(error))
    if "--version" in flags:
        from vjepa_lab import __version__

        return _say(f"vjepa_lab {__version__}")
    wants_help = bool(flags & {"--help", "-h"})
    if not words:
        return _say(_usage()) if wants_help or not args else _fail("no verb given\n" + _usage())
    if words[0] not in VERBS:
        return _fail(_unknown_verb(words[0]))
    verb = VERBS[words[0]]
    if wants_help:
        return _say(_verb_help(words[0], verb, words[1:]))
    return _run(verb, words[1:], show="--show" in flags, debug="--debug" in flags)


def _split(args: list[str]) -> tuple[set[str], list[str]]:
    """Flags, and words with every ``--key value`` made ``key=value``."""
    flags: set[str] = set()
    words: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg in _FLAGS:
            flags.add(arg)
        elif not arg.startswith("-"):
            words.append(arg)
        elif not arg.startswith("--"):
            raise ValueError(f"unknown option {arg}; see vjepa-lab --help")
        else:
            key, equals, value = arg[2:].partition("=")
            if not equals:
                value = next(rest, "--")
                if value.startswith("--"):
                    raise ValueError(f"option {arg} needs a value ({arg} VALUE), or is unknown; see vjepa-lab --help")
            words.append(f"{key.replace('-', '_')}={value}")
    return flags, words


def _arguments(verb: Verb, words: list[str]) -> tuple[list[str], list[str]]:
    """YAML files, and ``key=value`` arguments with the verb's own word among them."""
    values = [w for w in words if "=" in w and "/" not in w.partition("=")[0]]  # runs/lr=0.1/last.ckpt is a path
    files = [w for w in words if w not in values]
    if verb.word:
        own = [w for w in files if not w.endswith((".yaml", ".yml"))]
        if len(own) > 1:
            raise ValueError(f"got {' '.join(own)}: expected one {verb.word}, like {verb.example}")
        files = [w for w in files if w not in own]
        values = [*(f"{verb.word}={w}" for w in own), *values]
    return files, values


def _run(verb: Verb, words: list[str], *, show: bool, debug: bool) -> int:
    from vjepa_lab import config as configs
    from vjepa_lab import merge
    from vjepa_lab.validate import validate

    try:
        files, values = _arguments(verb, words)
        config = merge.load(_schema(verb), files, values)
        if show and not verb.show:
            return _say(merge.to_yaml(config))
        validate(config)
        if show:
            return _say(_function(verb.show)(config))
        return _function(verb.function)(config) or 0
    except KeyboardInterrupt:
        if debug:
            raise
        sys.stderr.write("\nvjepa-lab: broken off\n")
        return 130
    except (ValueError, OSError) as error:
        if debug:
            raise
        return _fail(f"{error}\n(--debug shows where)" if not isinstance(error, configs.ConfigError) else str(error))


def _function(named: str) -> Any:
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)


def _schema(verb: Verb) -> type:
    module, _, name = verb.config.partition(":")
    return getattr(importlib.import_module(f"vjepa_lab.{module}"), name)


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}   {verb.summary}" for name, verb in VERBS.items())
    return _USAGE.format(verbs=verbs, examples="\n".join(f"  {verb.example}" for verb in VERBS.values()))


def _verb_help(name: str, verb: Verb, words: list[str]) -> str:
    from vjepa_lab import registry

    lines = [f"vjepa-lab {name}: {verb.summary}", f"  {verb.example}", "", "fields (default): meaning"]
    lines += _fields(_schema(verb))
    if verb.config in ("config:PretrainConfig", "config_world:PosttrainConfig"):
        for kind in (registry.MASKS, registry.SOURCES, registry.PROBES):
            lines.append(f"{kind.kind}s: {', '.join(kind.names())}")
    elif verb.config in ("config_probe:ProbeConfig", "config_ablate:AblateConfig"):
        lines.append(f"probes: {', '.join(registry.PROBES.names())}")
    elif verb.config == "config_masks:MasksConfig":
        lines.append(f"masks (--strategy NAME --help: its fields): {', '.join(registry.MASKS.names())}")
        asked = [word.partition("=")[2].split(",") for word in words if word.startswith("strategy=")]
        for strategy in (name for names in asked for name in names if name in registry.MASKS.names()):
            lines += ["", f"fields of {strategy} (default): meaning"]
            lines += _fields(registry.MASKS.get(strategy))
    return "\n".join(lines)


def _fields(schema: type) -> list[str]:
    from vjepa_lab.merge import fields_with_docs

    return [f"  {key} ({default})" + (f": {doc}" if doc else "") for key, default, doc in fields_with_docs(schema)]


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
