from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.store.fifo import Fifo, Queued


def entry(key: int, weight: int = 1) -> Queued:
    made = Queued()
    made.key, made.weight, made.visited = key, weight, 0
    return made


def keys(queue: Fifo) -> list[int]:
    forth, node = [], queue.newer
    while node is not queue:
        forth.append(node.key)
        node = node.newer
    back, node = [], queue.older
    while node is not queue:
        back.append(node.key)
        node = node.older

    assert forth == back[::-1]
    return forth


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "take", "replace", "clear"]), st.integers(0, 50)
        )
    )
)
def test_it_behaves_as_a_list(steps):
    queue, model = Fifo(), []
    for number, (step, size) in enumerate(steps):
        if step == "push":
            model.append(entry(number, weight=size))
            queue.push(model[-1])
        elif step == "clear":
            queue.clear()
            model.clear()
        elif model:
            at = size % len(model)
            if step == "take":
                queue.take(model.pop(at))
            else:
                new = entry(number, weight=number)
                queue.replace(model[at], new)
                model[at] = new

        assert [each.key for each in model] == keys(queue)
        assert len(model) == queue.count
        assert sum(each.weight for each in model) == queue.weight


def test_clearing_cuts_the_links_between_neighbours():
    queue, first, second = Fifo(), entry(1), entry(2)
    queue.push(first)
    queue.push(second)

    queue.clear()

    assert first.newer is first
    assert second.older is second
