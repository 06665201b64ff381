"""The options of caches and of memoized functions: their types, meanings and bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict

from meshcache.codec.values import Codec
from meshcache.errors import ConfigError
from meshcache.freshness import (
    PLAIN,
    Freshness,
    Recipe,
    TtlOf,
    checked_early,
    checked_seconds,
)
from meshcache.model import UNSET, Unset
from meshcache.times import Ttl, checked_timeout, checked_ttl

__all__ = [
    "Errors",
    "ManyOptions",
    "MemoizeOptions",
    "Options",
    "Settings",
    "Tags",
    "TagsOf",
    "checked_known",
    "freshness_of",
    "settings_of",
]

Tags: TypeAlias = str | Iterable[str]
"""Words to forget values by."""
TagsOf: TypeAlias = Tags | Callable[..., Tags]
"""Tags, or what makes them of a function's arguments."""
Errors: TypeAlias = type[Exception] | Iterable[type[Exception]]


class Options(TypedDict, total=False):
    """The options of a cache; see `Cache`."""

    ttl: float | None
    near_ttl: float | None
    jitter: float
    codec: str | Codec
    copy: bool
    stale: float
    stale_if_error: float
    early: float
    soft_timeout: float | None
    none_ttl: Ttl


class MemoizeOptions(TypedDict, total=False):
    """The options of a memoized function; see `Cache.memoize`."""

    ttl: TtlOf
    key: Callable[..., object] | None
    ignore: Iterable[str]
    name: str | None
    version: int
    tags: TagsOf
    fill: Literal["owner", "caller"]
    stale: float | Unset
    stale_if_error: float | Unset
    early: float | Unset
    soft_timeout: float | Unset | None
    none_ttl: Ttl
    errors: Errors
    error_ttl: float | None
    cache_if: Callable[[Any], bool] | None
    load_timeout: float | None


class ManyOptions(TypedDict, total=False):
    """The options of a memoized function of many keys; see `Cache.memoize_many`."""

    ttl: TtlOf
    name: str | None
    version: int
    tags: Tags
    stale: float | Unset
    stale_if_error: float | Unset
    early: float | Unset
    soft_timeout: float | Unset | None
    none_ttl: Ttl
    cache_if: Callable[[Any], bool] | None
    load_timeout: float | None


class Settings(NamedTuple):
    """How one function is memoized: its options, checked, the cache's in their place.

    `recipe` is without tags, which may depend on the arguments. A `load_timeout` of 0
    is the node's.
    """

    key: Callable[..., object] | None
    ignore: tuple[str, ...]
    name: str | None
    version: int
    tags: TagsOf
    fill: Literal["owner", "caller"]
    load_timeout: float
    freshness: Freshness
    recipe: Recipe


def settings_of(
    options: MemoizeOptions, freshness: Freshness, none_ttl: Ttl
) -> Settings:
    """Return *options* checked, with the cache's where a function says nothing.

    Raises:
        ConfigError: one is unknown or out of its bounds.
    """
    checked_known(dict(options), MemoizeOptions, "a memoized function")
    fill = options.get("fill", "owner")
    if fill not in {"owner", "caller"}:
        raise ConfigError(f'fill={fill!r} is neither "owner" nor "caller"')
    return Settings(
        key=options.get("key"),
        ignore=_names(options.get("ignore", ())),
        name=options.get("name"),
        version=_checked_version(options.get("version", 1)),
        tags=options.get("tags", ()),
        fill=fill,
        load_timeout=checked_timeout(options.get("load_timeout")),
        freshness=freshness_of(dict(options), freshness),
        recipe=_recipe(options, none_ttl),
    )


def freshness_of(options: dict[str, Any], default: Freshness = PLAIN) -> Freshness:
    """Return how old a value may be by *options*, else by *default*.

    Raises:
        ConfigError: one is out of its bounds.
    """
    chosen = {
        name: check(options[name], name)
        for name, check in _WINDOWS.items()
        if not isinstance(options.get(name, UNSET), Unset)
    }
    return default._replace(**chosen)


def _soft(seconds: object, what: str) -> float:
    return 0.0 if seconds is None else checked_timeout(seconds, what)


_WINDOWS: Final[dict[str, Callable[[object, str], float]]] = {
    "stale": checked_seconds,
    "stale_if_error": checked_seconds,
    "early": lambda early, _: checked_early(early),
    "soft_timeout": _soft,
}


def _recipe(options: MemoizeOptions, none_ttl: Ttl) -> Recipe:
    ttl = options.get("ttl", UNSET)
    if not callable(ttl):
        _checked_ttl(ttl, "ttl")
    cache_if = options.get("cache_if")
    if cache_if is not None and not callable(cache_if):
        raise ConfigError(f"cache_if={cache_if!r} cannot be called with a value")
    return Recipe(
        ttl,
        _checked_ttl(options.get("none_ttl", none_ttl), "none_ttl"),
        cache_if,
        _checked_errors(options.get("errors", ())),
        checked_ttl(options.get("error_ttl", 0), "error_ttl"),
    )


def _checked_ttl(ttl: Ttl, what: str) -> Ttl:
    return ttl if isinstance(ttl, Unset) else checked_ttl(ttl, what)


def checked_known(options: dict[str, Any], known: type, whose: str) -> None:
    """Raise if one of *options* is not among the fields of *known*."""
    names = known.__annotations__
    if unknown := ", ".join(sorted(set(options) - set(names))):
        raise ConfigError(f"{unknown}: no such option; {whose} has {', '.join(names)}")


def _names(ignore: Iterable[str]) -> tuple[str, ...]:
    return (ignore,) if isinstance(ignore, str) else tuple(ignore)


def _checked_version(version: object) -> int:
    if type(version) is not int or not 0 <= version < 2**32:
        raise ConfigError(
            f"version={version!r} is no number from 0; raise it by 1 whenever "
            "the function's results change in kind"
        )
    return version


def _checked_errors(errors: Errors) -> tuple[type[Exception], ...]:
    """Return all of *errors*, which may be a single one, as in an `except`."""
    classes = (errors,) if isinstance(errors, type) else tuple(errors)
    for error in classes:
        if not _is_exception(error):
            raise ConfigError(f"errors={error!r}: that is no class of exceptions")
    return classes


def _is_exception(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)
