"""From the seeds of a `Config` to the providers that look them up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import final

from meshcache.config import Address, Seed, seed
from meshcache.config.address import parse
from meshcache.discovery.dns import Dns, Resolver, system_resolver
from meshcache.discovery.provider import Provider, distinct
from meshcache.discovery.static import Static
from meshcache.errors import ConfigError

__all__ = ["Call", "providers"]


def providers(
    seeds: Iterable[Seed], resolve: Resolver = system_resolver
) -> list[Provider]:
    """Return providers that together give the addresses of all *seeds*.

    Numeric addresses share one provider; a name or a callable has its own, so that
    one that fails does not hide the others.
    """
    numeric: list[Address] = []
    found: list[Provider] = []
    for item in seeds:
        if not isinstance(item, str):
            found.append(Call(item, resolve))
            continue
        address = parse(item.removeprefix(seed.DNS))
        if address.numeric:
            numeric.append(address)
        else:
            found.append(Dns(address, resolve))
    return [Static(tuple(numeric)), *found] if numeric else found


@final
class Call:
    """What the application's own function returns, checked.

    Confined to the scout thread.
    """

    __slots__ = ("_call", "_resolve", "name")

    def __init__(
        self, call: Callable[[], Iterable[str]], resolve: Resolver = system_resolver
    ) -> None:
        self.name = getattr(call, "__qualname__", repr(call))
        self._call = call
        self._resolve = resolve

    def addresses(self) -> list[str]:
        """Call the function and return the addresses behind what it returned.

        Raises:
            OSError: the function raised, whatever it raised, which is the `__cause__`;
                or it returned names, and none of them can be looked up now.
            ConfigError: the function returned something that is no seed.
        """
        seeds = distinct(map(self._checked, self._items()))
        found: list[str] = []
        failure: OSError | None = None
        for provider in providers(seeds, self._resolve):
            try:
                found.extend(provider.addresses())
            except OSError as error:
                failure = error
        if failure is not None and not found:
            raise failure
        return list(distinct(found))

    def _items(self) -> Iterator[str]:
        try:
            items = self._call()
            # A lone string is an iterable of characters; surely it meant one seed.
            yield from (items,) if isinstance(items, str) else items
        except (ConfigError, OSError):
            raise
        except Exception as error:
            raise OSError(f"seeds: {self.name}() raised {error!r:.200}") from error

    def _checked(self, item: object) -> str:
        if not isinstance(item, str):
            raise ConfigError(
                f"seeds: {self.name}() returned {item!r:.80}, which is no string; "
                "return host:port or dns://name:port"
            )
        try:
            return seed.canonical(item)
        except ValueError as error:
            raise ConfigError(f"seeds: {self.name}() returned {error}") from None
