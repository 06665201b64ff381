from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, final

from _typeshed import ReadableBuffer, WriteableBuffer

_Encoder = TypeVar("_Encoder", bound=Callable[..., bytes])
_Records: TypeAlias = Callable[[int, bytes, tuple[bytes, int, float]], bytes]

INTERFACE: Final[int]
SOURCE: Final[str]

@final
class Reader:
    def __new__(
        cls,
        memory: WriteableBuffer,
        *,
        sets: int,
        offsets_at: int,
        prints_at: int,
        uses_at: int,
        units_at: int,
        tenures_at: int,
        void_at: int,
        cleared_at: int,
        partition_bits: int,
        use_max: int,
        envelope: int,
        covers_key: Callable[[int, bytes], bool],
        covers_tags: Callable[[int, bytes], bool],
        entry: type[tuple[object, ...]],
        torn: Callable[[], None],
    ) -> Reader: ...
    def find(self, key: bytes, hashed: int, /) -> tuple[int, int]: ...
    def __call__(self, key: bytes, hashed: int, now: float, /) -> Any: ...

def decoder(otherwise: Callable[[bytes], object], /) -> Callable[[bytes], object]: ...
def encoder(otherwise: _Encoder, /) -> _Encoder: ...
def keys(
    otherwise: Callable[[bytes, object], tuple[bytes, int]], /
) -> Callable[[bytes, object], tuple[bytes, int]]: ...
def records(otherwise: _Records, /) -> _Records: ...
def xxh3(data: ReadableBuffer, /) -> int: ...
