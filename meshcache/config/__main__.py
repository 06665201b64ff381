"""Print the reference of all settings: `python -m meshcache.config`."""

from __future__ import annotations

import sys

from meshcache.config.reference import reference

sys.stdout.write(reference())
