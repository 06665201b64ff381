"""How nodes keep track of one another, and how their connections behave."""

from __future__ import annotations

from dataclasses import dataclass

from meshcache.config.capacity import Capacity
from meshcache.config.setting import count, seconds, size

__all__ = ["Membership", "Transport"]


# Sections are base classes so that one flat `Config` has all the fields while each
# table of the reference has a class to come from. They are not used on their own.
@dataclass(frozen=True, slots=True, kw_only=True)
class Membership(Capacity):
    """Membership: SWIM (DSN 2002) with Lifeguard (arXiv 1707.00788).

    The values are memberlist's for local networks; the choice of suspicion_alpha
    follows Lifeguard, table VII. All nodes of a cluster should have the same.
    """

    probe_interval: float = seconds(
        1.0,
        0.01,
        60,
        "Time between two probes, each of one member.",
        "Shorter finds the dead sooner; a node sends about two messages in each.",
    )
    probe_timeout: float = seconds(
        0.5,
        0.005,
        60,
        "How long a probed member may take before others are asked to try.",
        "Well above a round trip, and below probe_interval.",
    )
    indirect_probes: int = count(
        3,
        0,
        16,
        "Members asked to probe one that did not answer.",
        "More helps where single links fail rather than nodes.",
    )
    suspicion_alpha: int = count(
        4,
        1,
        20,
        "Shortest suspicion: this many intervals, times log10 of the members.",
        "2 takes two thirds of the time of 4, and is wrong eight times as often.",
    )
    suspicion_beta: int = count(
        6,
        1,
        20,
        "Longest suspicion, as a multiple of the shortest.",
        "It holds while only one member is suspicious; 1 is SWIM without Lifeguard.",
    )
    suspicion_confirmations: int = count(
        3,
        0,
        10,
        "Independent suspicions that bring the longest down to the shortest.",
        "Fewer decide sooner; more are safer against one bad link.",
    )
    suspicion_unlinked: float = seconds(
        3.5,
        0.01,
        3600,
        "Shortest suspicion where this node's own connection to the member is lost.",
        "A member may stand still for about this long and lose nothing by it.",
    )
    max_health: int = count(
        8,
        0,
        32,
        "How far a node that is slow itself stretches its own patience.",
        "Leave it: a Python process is stuck in a long call now and then.",
    )
    retransmit_mult: int = count(
        4,
        1,
        20,
        "How often news is passed on: this, times log10 of the members.",
        "Higher survives more loss and costs more bytes.",
    )
    max_updates: int = count(
        16,
        1,
        90,
        "Pieces of news that ride on one message.",
        "More spreads a mass start sooner; 90 of the longest fit in a control frame.",
    )
    gossip_interval: float = seconds(
        0.2,
        0.01,
        60,
        "Time between two rounds of news that found no probe to ride on.",
        "Shorter spreads news sooner; nothing is sent when there is none.",
    )
    gossip_fanout: int = count(
        3,
        1,
        64,
        "Members told in each round.",
        "3 reaches everybody in a few rounds.",
    )
    gossip_to_dead: float = seconds(
        30.0,
        0,
        86_400,
        "How long the dead still get news, so that one that is not dead can say so.",
        "Above the longest pause that a process may come back from.",
    )
    push_pull_interval: float = seconds(
        30.0,
        0.1,
        3600,
        "Time between two exchanges of whole member lists.",
        "It repairs what gossip lost; longer is cheaper in large clusters.",
    )
    reconnect_interval: float = seconds(
        30.0,
        0.1,
        3600,
        "Time between two attempts to reach a member held dead.",
        "It bounds how long a healed network stays split.",
    )
    seed_interval: float = seconds(
        15.0,
        0.1,
        3600,
        "Time between two contacts with the seeds, looked up anew, for ever.",
        "It bounds how long clusters that started apart stay apart.",
    )
    directory_interval: float = seconds(
        0.5,
        0.01,
        3600,
        "Time between two looks at the same-host directory.",
        "It bounds how long the death of a sibling process goes unseen.",
    )
    forget_after: float = seconds(
        86_400.0,
        1,
        2_592_000,
        "How long the dead and the departed are remembered.",
        "Above the longest outage after which a cluster must merge by itself.",
    )
    max_members: int = count(
        8192,
        1,
        65_536,
        "Members remembered, the dead included.",
        "Newcomers over the limit are refused, so stay above twice the cluster.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport(Membership):
    """Connections: one pair per peer, for control and for data.

    Their limits are per peer, so that a slow one costs the others nothing.
    """

    control_hwm: int = count(
        64,
        1,
        10_000,
        "Control messages that wait for one peer.",
        "Few: a probe that comes late is worth less than none.",
    )
    data_hwm: int = count(
        1000,
        1,
        100_000,
        "Data messages that wait for one peer.",
        "Over the limit frames are dropped, and requests end by time-out.",
    )
    max_control_frame: int = size(
        "64KiB",
        "16KiB",
        "1MiB",
        "The largest control message that is accepted.",
        "Every node of a cluster needs the same.",
    )
    heartbeat_interval: float = seconds(
        0.5,
        0.05,
        60,
        "Time between two heartbeats; on data connections, half as often.",
        "They find a stopped process or a dead path, not a busy interpreter.",
    )
    heartbeat_timeout: float = seconds(
        1.5,
        0.1,
        300,
        "Silence after which a connection is lost; on data connections, twice that.",
        "Two or three heartbeats; above the longest pause of a well network.",
    )
    handshake_timeout: float = seconds(
        5.0,
        0.1,
        60,
        "How long a new connection may take to introduce itself.",
        "Shorter frees the sockets of port scanners sooner.",
    )
    reconnect_min: float = seconds(
        0.1,
        0.01,
        60,
        "The first wait before a lost connection is tried again.",
        "It doubles from here with each failure.",
    )
    reconnect_max: float = seconds(
        2.0,
        0.01,
        300,
        "The longest wait between two such attempts.",
        "It bounds how late the return of a peer is noticed.",
    )
    link_idle: float = seconds(
        120.0,
        1,
        86_400,
        "Time without traffic after which a connection is closed, until it is needed.",
        "Shorter holds fewer descriptors in large clusters; a probe may then have to "
        "connect first.",
    )
