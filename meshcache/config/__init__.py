"""Settings: what they are, what they may be, and what they mean.

`Config` has them all. A setting is declared once, in `capacity`, `protocol` or
`config`, with its meaning and its bounds; checks, errors and the reference page
(`python -m meshcache.config`) are made from that.
"""

from meshcache.config.address import Address
from meshcache.config.config import PRESETS, Config, disabled
from meshcache.config.keywords import Keywords
from meshcache.config.seed import Seed

__all__ = ["PRESETS", "Address", "Config", "Keywords", "Seed", "disabled"]
