"""Compiles `meshcache.native` while the package is built, where there is a compiler.

It is never required: without a compiler or Python's headers the build says so and goes
on, and the package does the same in Python. `MESHCACHE_NATIVE=no` builds without.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("meshcache", "native")
NAME = "meshcache.native._native"
REFUSALS = {"0", "no", "false", "off"}


class NativeHook(BuildHookInterface):
    """Adds the compiled module to a wheel, and to the checkout of an editable one."""

    PLUGIN_NAME = "custom"
    _aside: TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, if that can be done, and say that the wheel is of this platform."""
        inplace = version == "editable"
        self._aside = TemporaryDirectory(prefix="meshcache-build-")
        try:
            if inplace:
                forget(Path(self.root))
            if not wanted():
                return
            built = compiled(Path(self.root), Path(self._aside.name), inplace=inplace)
        except Exception as error:  # noqa: BLE001 - whatever it is, Python does it too
            self.app.display_warning(
                f"meshcache.native was not compiled, meshcache runs in Python: {error}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if not inplace:
            build_data["force_include"][str(built)] = str(FOLDER / built.name)

    def finalize(self, *_: object) -> None:
        """Remove what lay aside, now that it is in the wheel."""
        if self._aside is not None:
            self._aside.cleanup()


def wanted() -> bool:
    """Whether this Python would gain by it, and nobody has said no."""
    asked = os.environ.get("MESHCACHE_NATIVE", "").strip().lower()
    return sys.implementation.name == "cpython" and asked not in REFUSALS


def forget(root: Path) -> None:
    """Remove what an earlier build has left in the checkout for this Python."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    (root / FOLDER / f"_native{suffix}").unlink(missing_ok=True)


def compiled(root: Path, aside: Path, *, inplace: bool) -> Path:
    """Compile the module into the checkout or a folder *aside*, and return its file."""
    # Here, so that whatever is missing is one more reason to go on without.
    from setuptools import Distribution, Extension  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    extension = Extension(
        NAME,
        [str(FOLDER / "module.c")],
        define_macros=[("MESHCACHE_SOURCE", f'"{source_digest(root / FOLDER)}"')],
    )
    command = build_ext(Distribution({"name": "meshcache", "ext_modules": [extension]}))
    command.build_temp = str(aside / "objects")
    command.build_lib = str(root if inplace else aside)
    # Else it looks at module.c alone, and what is in the headers stays as it was.
    command.force = True
    command.ensure_finalized()
    here = Path.cwd()
    os.chdir(root)
    try:
        command.run()
    finally:
        os.chdir(here)
    return Path(command.get_ext_fullpath(NAME))


def source_digest(folder: Path) -> str:
    """Return a digest of the C sources: a test compares it with the compiled one's."""
    digest = sha256()
    for path in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
