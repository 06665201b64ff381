"""Handing outcomes to threads and to tasks."""

from __future__ import annotations

import asyncio
import threading

from meshcache.engine.ops import Closed, TimedOut
from meshcache.runtime.tickets import AsyncTicket, SyncTicket, Wakeups


def test_a_thread_gets_its_outcome():
    ticket = SyncTicket()
    thread = threading.Thread(target=lambda: ticket.resolve(TimedOut()))
    thread.start()

    assert TimedOut() == ticket.wait(10)
    thread.join()


def test_an_outcome_that_comes_first_waits_for_its_thread():
    ticket = SyncTicket()
    ticket.resolve(TimedOut())

    assert TimedOut() == ticket.wait(0.001)


def test_a_thread_that_hears_nothing_is_told_closed_and_a_late_outcome_harms_nobody():
    ticket = SyncTicket()

    assert Closed() == ticket.wait(0.001)
    ticket.resolve(TimedOut())


def test_all_tasks_of_a_loop_are_woken_by_one_call():
    async def main():
        loop = asyncio.get_running_loop()
        calls, wakeups = [], Wakeups()
        tickets = [AsyncTicket(loop) for _ in range(5)]
        plain = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *a: calls.append(a) or plain(*a)
        for ticket in tickets:
            wakeups.add(ticket, TimedOut())
        gone = wakeups.flush()
        outcomes = await asyncio.gather(*(t.future for t in tickets))
        return gone, len(calls), outcomes, wakeups.flush()

    gone, calls, outcomes, nothing = asyncio.run(main())

    assert ([], 1, [TimedOut()] * 5, []) == (gone, calls, outcomes, nothing)


def test_a_cancelled_task_is_left_alone():
    async def main():
        ticket, wakeups = AsyncTicket(asyncio.get_running_loop()), Wakeups()
        ticket.future.cancel()
        wakeups.add(ticket, TimedOut())
        wakeups.flush()
        await asyncio.sleep(0)
        return ticket.future.cancelled()

    assert asyncio.run(main())


def test_the_tickets_of_a_closed_loop_come_back_and_the_others_are_served():
    wakeups, closed = Wakeups(), asyncio.new_event_loop()
    lost = [AsyncTicket(closed), AsyncTicket(closed)]
    closed.close()

    async def main():
        ticket = AsyncTicket(asyncio.get_running_loop())
        for waiting in (lost[0], ticket, lost[1]):
            wakeups.add(waiting, TimedOut())
        return wakeups.flush(), await ticket.future

    assert (lost, TimedOut()) == asyncio.run(main())
    assert [] == wakeups.flush()
