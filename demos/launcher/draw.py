"""A picture as rich draws it: the members, the hash space, the tiers, the events.

Everything fits 80 columns and 24 lines, and grows with the terminal: wider bars, more
events, more members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.space import NOBODY, sample

if TYPE_CHECKING:
    from rich.console import RenderableType

    from launcher.picture import Picture, Row
    from launcher.promises import Promise

__all__ = ["draw", "verdict"]

_SLOT_COLOURS: Final = (
    "#4cc9f0",
    "#f9c74f",
    "#90be6d",
    "#f3722c",
    "#b388eb",
    "#f15bb5",
    "#43aa8b",
    "#adb5bd",
)
_TIER_COLOURS: Final = {
    "near": "#90be6d",
    "host": "#43aa8b",
    "peer": "#4cc9f0",
    "fill": "#f9c74f",
    "local": "#f94144",
}
_TIER_MEANS: Final = {
    "near": "this process",
    "host": "this host",
    "peer": "the owner",
    "fill": "a load",
    "local": "a load, no mesh",
}
_STATE_STYLES: Final = {"alive": "green", "starting": "dim", "joining": "dim"}
_BLANK: Final = "#303030"
_MAX_WIDTH: Final = 110
_EVENTS: Final = 8
_LEAST_EVENTS: Final = 3
_FIXED_LINES: Final = 17  # all that is neither a member nor an event
_MOSAIC_ROWS: Final = 2
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_MS_FROM_US: Final = 1000.0


def draw(picture: Picture, width: int, height: int) -> RenderableType:
    """Return the picture for a terminal of so many columns and lines."""
    width = min(width - 1, _MAX_WIDTH)
    room = height - _FIXED_LINES
    members = min(len(picture.rows), max(room - _LEAST_EVENTS, 1))
    return Group(
        _title(picture, width),
        _progress(picture, width),
        Text(),
        _members(picture, members, width),
        Text(),
        *_mosaic(picture, width),
        Text(),
        _tiers(picture, width),
        _loads(picture),
        Text(),
        *_events(picture, room - members, width),
    )


def verdict(promises: list[Promise]) -> RenderableType:
    """Return the promises, each with its mark and its numbers."""
    table = Table.grid(padding=(0, 2))
    for promise in promises:
        mark = Text("✓", "bold green") if promise.kept else Text("✗", "bold red")
        table.add_row(
            mark,
            Text(promise.name, "" if promise.kept else "bold red"),
            Text(promise.detail, "dim"),
        )
    return table


def _title(picture: Picture, width: int) -> Text:
    title = Text("meshcache demo", "bold")
    title.append(
        f"   {picture.nodes} processes · one application · no server", "not bold dim"
    )
    clock = f"{picture.elapsed_s:.1f} s"
    title.append(clock.rjust(width - len(title)), "not bold dim")
    return title


def _progress(picture: Picture, width: int) -> Table:
    row = Table.grid(padding=(0, 1))
    tail = (
        f"{picture.done:4.0%}  {picture.requests:,} reads  {picture.per_second:,.0f}/s"
    )
    bar = ProgressBar(
        total=1.0,
        completed=picture.done,
        width=max(10, width - len(picture.phase) - len(tail) - 2),
        complete_style="#4cc9f0",
        finished_style="#90be6d",
    )
    row.add_row(Text(picture.phase, "#4cc9f0"), bar, Text(tail))
    return row


def _members(picture: Picture, most: int, width: int) -> Table:
    table = _table()
    table.add_column(
        "member" if most >= len(picture.rows) else f"of {len(picture.rows)}"
    )
    table.add_column("node", style="dim")
    table.add_column("pid", justify="right", style="dim")
    table.add_column("state", min_width=11)
    table.add_column("hash space")
    table.add_column("hash ranges", justify="right")
    table.add_column("reads", justify="right")
    # The bars are as wide as the largest share, with room for it to grow on a death.
    full = max(8, width - 70)
    largest = max((row.share for row in picture.rows), default=0.0)
    scale = max(largest, 1.35 / picture.nodes)
    for row in picture.rows[:most]:
        bar = _bar(row.share / scale, full, _colour(row.slot))
        share = Text.assemble(bar, f" {row.share:5.1%}")
        table.add_row(*_named(row), share, f"{row.ranges:,}", f"{row.requests:,}")
    return table


def _named(row: Row) -> tuple[RenderableType, ...]:
    state = row.state.split()[0]
    return (
        Text.assemble(("● ", _colour(row.slot)), (row.label, "bold")),
        row.node or "-",
        str(row.pid),
        Text(row.state, _STATE_STYLES.get(state, "bold red")),
    )


def _mosaic(picture: Picture, width: int) -> list[Text]:
    # Two cells to a character: the upper half in one colour, the lower in another.
    total = len(picture.owners)
    cells = sample(picture.owners, 2 * _MOSAIC_ROWS * width)
    every = f", one in {total // len(cells)} of" if total > len(cells) else ":"
    title = f"owners in the order of the hash space{every} {total:,} partitions"
    lines = [Text(title if total else "owners: no table yet", "dim")]
    for row in range(_MOSAIC_ROWS):
        upper = cells[2 * row * width : (2 * row + 1) * width]
        lower = cells[(2 * row + 1) * width : (2 * row + 2) * width]
        line = Text()
        for over, under in zip(upper, lower, strict=True):
            line.append("▀", f"{_cell(over)} on {_cell(under)}")
        lines.append(line)
    return lines


def _tiers(picture: Picture, width: int) -> Table:
    table = _table()
    table.add_column("answered by")
    table.add_column("", style="dim")
    table.add_column("reads", justify="right")
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("p50", justify="right")
    table.add_column("p99", justify="right")
    total = max(1, picture.requests)
    for tier, reads in picture.hits.items():
        colour = _TIER_COLOURS[tier]
        latency = picture.latency_us.get(tier, {})
        table.add_row(
            Text(tier, colour),
            _TIER_MEANS[tier],
            f"{reads:,}",
            _bar(reads / total, max(8, width - 66), colour),
            f"{reads / total:.1%}",
            _duration(latency.get("p50")),
            _duration(latency.get("p99")),
        )
    return table


def _loads(picture: Picture) -> Text:
    text = Text.assemble(
        (f"{picture.distinct:,}", "bold"),
        " distinct keys, ",
        (f"{picture.loads:,}", "bold"),
        " loads in all processes",
    )
    if picture.loads == picture.distinct > 0:
        text.append("   each loaded once", "green")
    return text


def _events(picture: Picture, most: int, width: int) -> list[Text]:
    lines = []
    for event in picture.events[-min(max(most, 1), _EVENTS) :]:
        line = Text.assemble((f"{event.at_s:6.2f} s  ", "dim"), event.text)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)


def _bar(share: float, width: int, colour: str) -> Text:
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    bar = "█" * whole + (_EIGHTHS[rest] if rest else "")
    return Text(bar.ljust(width), colour)


def _duration(us: float | None) -> str:
    if us is None:
        return "-"
    return f"{us:.1f} µs" if us < _MS_FROM_US else f"{us / _MS_FROM_US:.1f} ms"


def _colour(slot: int) -> str:
    return _SLOT_COLOURS[slot % len(_SLOT_COLOURS)]


def _cell(owner: str) -> str:
    return _BLANK if owner == NOBODY else _colour(ord(owner) - ord("0"))
