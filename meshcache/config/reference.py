"""The page of the reference that lists every setting, made from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from inspect import cleandoc
from typing import Final

from meshcache.config.capacity import Capacity
from meshcache.config.config import ORDERS, PRESETS, Config, default
from meshcache.config.protocol import Membership, Transport
from meshcache.config.setting import Setting

__all__ = ["reference"]

_INTRODUCTION: Final = """\
# Configuration

<!-- Made by `python -m meshcache.config > docs/reference/configuration.md`. -->

Each setting is a keyword of `meshcache.start()` and `meshcache.Node()`, and an
environment variable: `MESHCACHE_` and its name in capitals, as in
`MESHCACHE_MAX_BYTES=256MB`. The keyword wins over the variable, the variable over the
preset, the preset over the default. An empty variable counts as not set. A setting
that is unknown or out of its bounds is a `ConfigError`, and nothing is started.

| kind | how to write it |
|---|---|
| size | bytes, or with a unit: `64MB` is 64,000,000, `1GiB` is 2^30 |
| duration | seconds, or with a unit: `500ms`, `2s`, `5m`, `1h`, `1d` |
| yes or no | `true`, `yes`, `on`, `1`, or `false`, `no`, `off`, `0` |
| list | separated by commas |

Three variables are no settings. `MESHCACHE_PRESET` names a preset, as the keyword
`preset` does. `MESHCACHE_DISABLE` set to yes turns meshcache off: no node is started.
`MESHCACHE_NATIVE` set to no leaves the compiled functions aside: all runs in Python.
"""


def reference() -> str:
    """Return the whole page, in Markdown."""
    parts = [_INTRODUCTION, *_presets(), *_sections(), *_orders()]
    return "\n".join(parts)


def _sections() -> Iterator[str]:
    listed: set[str] = set()
    sections = {}
    for section in (Capacity, Membership, Transport, Config):
        sections[section] = [f for f in fields(section) if f.name not in listed]
        listed.update(f.name for f in fields(section))
    for section in (Config, Capacity, Membership, Transport):
        title, _, rest = cleandoc(section.__doc__ or "").partition(".\n\n")
        yield f"## {title}\n"
        if rest and section is not Config:
            yield f"{rest}\n"
        yield "| setting | default | allowed | what it is, and how to choose it |"
        yield "|---|---|---|---|"
        for spec in sections[section]:
            about = Setting.of(spec)
            text = f"{about.meaning} {about.choose}"
            yield f"| `{spec.name}` | {default(spec.name)} | {about.bound} | {text} |"
        yield ""


def _presets() -> Iterator[str]:
    yield "## Presets\n"
    yield "A preset is a named set of values. `host`, the default, is for the processes"
    yield "of one host; `lan` is for many hosts, and needs a `secret`.\n"
    yield "| preset | values |"
    yield "|---|---|"
    for name, values in PRESETS.items():
        shown = ", ".join(f"`{key}={value!r}`" for key, value in values.items())
        yield f"| `{name}` | {shown or 'the defaults'} |"
    yield ""


def _orders() -> Iterator[str]:
    yield "## Settings that depend on each other\n"
    yield "| rule | because |"
    yield "|---|---|"
    for less, sign, more, why in ORDERS:
        yield f"| `{less} {sign} {more}` | {why} |"
    yield "| `data_port` differs from the port of `bind` | a port has one listener |"
    yield "| `bind` is loopback, or there is a `secret`, or `insecure` | others could |"
    yield ""
