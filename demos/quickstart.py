"""Run this in two terminals: each second is worked out once, by one of the two."""

import os
import sys
import time

import meshcache

meshcache.start(cluster="quickstart")
seconds = meshcache.Cache("seconds", ttl=60)


@seconds.memoize
def work_out(second: int) -> str:
    """Return who worked out a second, which takes a while."""
    time.sleep(0.2)
    return f"{second} was worked out by process {os.getpid()}"


print(f"This is process {os.getpid()}. Start another one beside it.")
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 60):
    print(work_out(int(time.time())), flush=True)
    time.sleep(1 - time.time() % 1)
