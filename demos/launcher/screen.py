"""The screen: a picture drawn with rich on a terminal, plain lines anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self, final

from rich.live import Live

from launcher.draw import draw

if TYPE_CHECKING:
    from rich.console import Console

    from launcher.picture import Event, Picture

__all__ = ["Lines", "Screen", "Terminal", "screen_on"]

_LINE_EVERY_S: Final = 2.0


class Screen(Protocol):
    """Shows a run as it goes. Confined to the main thread."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was found."""

    def show(self, picture: Picture) -> None:
        """Show the moment."""

    def tell(self, event: Event) -> None:
        """Tell an event; pictures that follow repeat it."""


@final
class Terminal:
    """A picture that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing."""
        self._live.stop()

    def show(self, picture: Picture) -> None:
        """Draw the picture over the one before."""
        width, height = self._console.size
        self._live.update(draw(picture, width, height), refresh=True)

    def tell(self, event: Event) -> None:
        """Leave it to the next picture, which lists the latest events."""


@final
class Lines:
    """A line an event, and one every two seconds in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0

    def __enter__(self) -> Self:
        """Begin to print."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing to undo."""

    def show(self, picture: Picture) -> None:
        """Print where the run stands, from time to time."""
        if picture.elapsed_s < self._next_s:
            return
        self._next_s = picture.elapsed_s + _LINE_EVERY_S
        tiers = "  ".join(f"{tier} {n:,}" for tier, n in picture.hits.items())
        self._print(
            picture.elapsed_s,
            f"{picture.phase} {picture.done:.0%}  {picture.requests:,} reads"
            f"  ({tiers})  {picture.loads:,} loads of {picture.distinct:,} keys",
        )

    def tell(self, event: Event) -> None:
        """Print the event."""
        self._print(event.at_s, event.text)

    def _print(self, at_s: float, text: str) -> None:
        line = f"{at_s:6.2f} s  {text}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def screen_on(console: Console) -> Screen:
    """Return the screen that suits a console."""
    return Terminal(console) if console.is_terminal else Lines(console)
