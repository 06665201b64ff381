"""`python -m meshcache`: the command line."""

from __future__ import annotations

from meshcache.cli import main

if __name__ == "__main__":
    main(prog_name="python -m meshcache")
