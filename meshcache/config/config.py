"""One node's settings: checked when they are made, and never changed after.

`Config(...)` takes values; `Config.load(environ, ...)` also asks the environment and
a preset. Keyword beats environment, environment beats preset, preset beats default.
A setting out of its bounds is a `ConfigError` and there is no `Config`.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from meshcache.config import address, seed, units
from meshcache.config.address import Address
from meshcache.config.protocol import Transport
from meshcache.config.seed import Seed
from meshcache.config.setting import Setting, Unit, count, flag, refuse, setting
from meshcache.errors import ConfigError

__all__ = ["ORDERS", "PREFIX", "PRESETS", "Config", "Order", "default", "disabled"]

PREFIX: Final = "MESHCACHE_"
_DISABLE: Final = "DISABLE"
_NATIVE: Final = "NATIVE"  # Obeyed where it is imported, see `meshcache.native`.
_PRESET: Final = "PRESET"
_MAX_VALUE_SHARE: Final = 8
_MAX_VALUE_BYTES: Final = 2**30
_LIST: Final = "`python -m meshcache.config` lists them"

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # The processes of one host, over loopback: the defaults.
        "host": MappingProxyType({}),
        # Many hosts: a port that seeds can name, and more patience with the network.
        "lan": MappingProxyType(
            {"bind": "0.0.0.0:7946", "data_port": 7947, "reconnect_max": 5.0}
        ),
    }
)


class Order(NamedTuple):
    """Two settings of which *less* must stay below *more*, and why."""

    less: str
    sign: str
    more: str
    why: str


ORDERS: Final = (
    Order("max_value_bytes", "<=", "max_bytes", "a value must fit in the memory"),
    Order("request_timeout", "<=", "load_timeout", "a load waits for a request"),
    Order("probe_timeout", "<", "probe_interval", "a probe ends within its interval"),
    Order("gossip_to_dead", "<", "forget_after", "the dead are told while remembered"),
    Order("push_pull_interval", "<", "forget_after", "all must hear of a death first"),
    Order("reconnect_interval", "<", "forget_after", "the dead are retried first"),
    Order("heartbeat_interval", "<", "heartbeat_timeout", "one must fit in the other"),
    Order("reconnect_min", "<=", "reconnect_max", "waits only grow"),
)
_SIGNS: Final = {"<": operator.lt, "<=": operator.le}


def _read_cluster(value: object) -> str:
    name = units.text(value)
    if "/" in name or not name.isprintable():
        raise ValueError("a name is printable and has no slash")
    return name


def _read_bind(value: object) -> str:
    return str(address.parse(units.text(value), any_port=True))


def _read_advertise(value: object) -> str:
    found = address.parse(units.text(value), default_port=0)
    if found.wildcard:
        raise ValueError("no peer can connect to that; name this host as peers see it")
    return str(found).removesuffix(":0")


def _read_secret(value: object) -> str:
    # A secret read from a file ends in a newline more often than not.
    return units.text(value).strip()


def _read_path(value: object) -> str:
    path = units.text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not path or "\0" in path:
        raise ValueError("not the path of a directory")
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(f"{error}; write the path in full") from None


def _utf8_length(text: str) -> int:
    return len(text.encode())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transport):
    """Place: who this node is, where it listens, and how it finds its peers.

    Thread-safe.
    """

    cluster: str = setting(
        "default",
        unit=Unit("bytes", _read_cluster, measure=_utf8_length),
        low=1,
        high=64,
        meaning="The name that all nodes of a cluster share.",
        choose="One per application and environment: nodes of other names are refused.",
    )
    bind: str = setting(
        "127.0.0.1:0",
        unit=Unit("host:port", _read_bind),
        meaning="Where the control listener listens; port 0 is any free one.",
        choose="Loopback for one host; a fixed port where others use it as a seed, "
        "of which the first of several workers has it and the rest get a free one.",
    )
    data_port: int = count(
        0,
        0,
        65_535,
        "The port of the data listener, on the same host; 0 is any free one.",
        "Fix it where a firewall must let it through.",
    )
    advertise: str | None = setting(
        None,
        unit=Unit("host or host:port", _read_advertise),
        none="the address listened on, or of the default route behind 0.0.0.0",
        meaning="What peers are told to connect to.",
        choose="Set it behind NAT or where a host has several networks.",
    )
    seeds: tuple[Seed, ...] = setting(
        (),
        unit=Unit("seeds", seed.read, seed.show, len),
        high=seed.SEEDS_MAX,
        meaning="Addresses to find the first peers at: host:port, dns://name:port, or "
        "a callable that returns them.",
        choose="Two or three nodes that seldom move, or one DNS name; listing the node "
        "itself does no harm. None are needed on one host.",
    )
    secret: str | None = setting(
        None,
        unit=Unit("characters", _read_secret, measure=len),
        low=16,
        high=1024,
        none="no encryption and no authentication",
        hidden=True,
        meaning="What nodes prove to each other that they know.",
        choose="Random, the same on every node, kept out of the source: "
        '`python -c "import secrets; print(secrets.token_urlsafe())"`.',
    )
    insecure: bool = flag(
        default=False,
        meaning="Allows other machines to connect although there is no secret.",
        choose="Only where everybody who can connect may read and write the cache.",
    )
    observer: bool = flag(
        default=False,
        meaning="Makes this node a member that owns nothing.",
        choose="For command lines and short-lived jobs.",
    )
    directory: bool = flag(
        default=True,
        meaning="Lets nodes of one user on one host find each other without seeds.",
        choose="Turn it off where processes of one host must not share.",
    )
    runtime_dir: str | None = setting(
        None,
        unit=Unit("characters", _read_path, measure=len),
        low=1,
        high=4096,
        none="$XDG_RUNTIME_DIR, else /tmp",
        meaning="The directory under which nodes of one host find each other.",
        choose="Set it where processes do not share /tmp, such as under PrivateTmp.",
    )
    host_lane: bool = flag(
        default=True,
        meaning="Whether the processes of this host read this node's range from shared "
        "memory, and write to it by a Unix socket, and it theirs.",
        choose="Turn it off where shared memory is scarce; all then goes to its owner "
        "by message, as between hosts.",
    )
    arena_dir: str | None = setting(
        None,
        unit=Unit("characters", _read_path, measure=len),
        low=1,
        high=4096,
        none="runtime_dir if that is set, else /dev/shm, else as runtime_dir",
        meaning="Where arenas lie: the directory under which nodes of one host share "
        "their memory.",
        choose="Set it where /dev/shm is smaller than max_bytes of all workers "
        "together; a tmpfs is best, and copy-on-write file systems will not do.",
    )
    replicas: int = count(
        0,
        0,
        0,
        "Copies of each entry on other nodes.",
        "Copies come with replication, which is not there yet.",
    )

    def __post_init__(self) -> None:
        values = {
            spec.name: Setting.of(spec).read(spec.name, getattr(self, spec.name))
            for spec in fields(self)
        }
        if values["max_value_bytes"] is None:
            share = values["max_bytes"] // _MAX_VALUE_SHARE
            values["max_value_bytes"] = min(share, _MAX_VALUE_BYTES)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        _check_orders(self)
        _check_ports(self)
        _check_exposure(self)

    @classmethod
    def load(cls, environ: Mapping[str, str], **overrides: Any) -> Config:
        """Return the settings of *overrides*, *environ*, the preset, the defaults.

        Args:
            environ: `os.environ`, of which the variables that start with MESHCACHE_
                are read; an empty one counts as not set.
            **overrides: settings by name, and `preset`.

        Raises:
            ConfigError: a setting is unknown or out of its bounds.
        """
        settings = {spec.name: Setting.of(spec) for spec in fields(cls)}
        chosen = dict(overrides)
        found = _environment(environ)
        _flag(environ, _NATIVE)
        _check_known(chosen, [*settings, _PRESET.lower()])
        _check_known(found, [*map(_variable, settings), PREFIX + _PRESET])
        preset = chosen.pop("preset", found.pop(PREFIX + _PRESET, "host"))
        values = dict(_preset(preset))
        for name, known in settings.items():
            if _variable(name) in found:
                values[name] = known.read(_variable(name), found[_variable(name)])
        return cls(**(values | chosen))

    @property
    def bind_address(self) -> Address:
        """`bind`, parsed."""
        return address.parse(self.bind, any_port=True)

    def describe(self) -> str:
        """Return a Markdown table of the values in force, the secret hidden."""
        rows = ["| setting | value | default |", "|---|---|---|"]
        for spec in fields(self):
            known = Setting.of(spec)
            value = known.show(getattr(self, spec.name)).replace("|", r"\|")
            rows.append(f"| `{spec.name}` | {value} | {default(spec.name)} |")
        return "\n".join(rows)


def default(name: str) -> str:
    """Return the default of a setting, for people."""
    spec = Config.__dataclass_fields__[name]
    known = Setting.of(spec)
    return known.none or known.show(known.read(name, spec.default))


def disabled(environ: Mapping[str, str]) -> bool:
    """Return whether MESHCACHE_DISABLE says that no node is to be started."""
    return _flag(environ, _DISABLE)


def _flag(environ: Mapping[str, str], name: str) -> bool:
    variable = PREFIX + name
    try:
        return units.flag(environ.get(variable) or False)
    except ValueError as error:
        raise refuse(variable, environ[variable], str(error)) from None


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    ours = {key: text for key, text in environ.items() if key.startswith(PREFIX)}
    apart = {PREFIX + _DISABLE, PREFIX + _NATIVE}
    return {key: text for key, text in ours.items() if text and key not in apart}


def _check_known(names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: no such setting; {_suggest(name, known)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only errors need it

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"{_LIST}."


def _preset(name: object) -> Mapping[str, Any]:
    found = PRESETS.get(name) if isinstance(name, str) else None
    if found is None:
        raise refuse("preset", name, f"no such preset; choose {' or '.join(PRESETS)}")
    return found


def _check_orders(config: Config) -> None:
    for less, sign, more, why in ORDERS:
        left, right = getattr(config, less), getattr(config, more)
        if not _SIGNS[sign](left, right):
            raise refuse(
                less,
                left,
                f"must be {sign} {more}={right!r}, as {why}; lower {less} or raise "
                f"{more}",
            )


def _check_ports(config: Config) -> None:
    port = config.bind_address.port
    if port and port == config.data_port:
        raise refuse(
            "data_port",
            port,
            f"already taken by bind={config.bind!r}; choose another or 0, any free one",
        )


def _check_exposure(config: Config) -> None:
    if config.bind_address.loopback or config.secret or config.insecure:
        return
    raise refuse(
        "bind",
        config.bind,
        "other machines can connect there, and without a secret they could read and "
        "write this cache; set secret= (or MESHCACHE_SECRET) to 16 characters or more, "
        "the same on every node, or bind 127.0.0.1:0, or, where everybody who can "
        "connect may do so, say insecure=True",
    )
