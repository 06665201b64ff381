"""Where the nodes of one user on one host meet, and whether it is safe to."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshcache.errors import ConfigError
from meshcache.place import directory_path, is_secure, secure

NAMES = st.text(min_size=1, max_size=16)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_setting_wins_over_the_session_and_that_over_tmp(tmp_path):
    chosen = directory_path("c", "/chosen", {"XDG_RUNTIME_DIR": str(tmp_path)})
    session = directory_path("c", None, {"XDG_RUNTIME_DIR": str(tmp_path)})
    neither = directory_path("c", None, {})

    uid = os.geteuid()
    assert f"/chosen/meshcache-{uid}/c" == str(chosen)
    assert tmp_path / f"meshcache-{uid}" / "c" == session
    assert f"/tmp/meshcache-{uid}/c" == str(neither)


def test_a_session_directory_that_is_not_there_is_passed_over(tmp_path):
    path = directory_path("c", None, {"XDG_RUNTIME_DIR": str(tmp_path / "gone")})

    assert "/tmp" == str(path.parents[1])


@example(".")
@example("..")
@settings(max_examples=40)
@given(NAMES.filter(str.isprintable))
def test_no_cluster_name_leaves_the_directory(name):
    path = directory_path(name, "/run", {})

    assert 1 == len(path.relative_to(f"/run/meshcache-{os.geteuid()}").parts)
    assert ".." not in path.parts
    assert str(path) == os.path.normpath(path)


@settings(max_examples=40)
@example("AAA", "aaa")
@example("Users", "users")
@example(".", "%2e")
@given(NAMES, NAMES)
def test_two_cluster_names_never_meet_even_where_case_does_not_count(one, other):
    paths = {str(directory_path(name, "/run", {})).lower() for name in (one, other)}

    assert len({one, other}) == len(paths)


def test_the_directory_is_made_for_its_user_alone(tmp_path):
    place = tmp_path / "meshcache-1" / "default"
    before = os.umask(0)
    try:
        secure(place)
        secure(place)
    finally:
        os.umask(before)

    assert (0o700, 0o700) == (mode(place.parent), mode(place))


@pytest.mark.parametrize("level", ["parent", "itself"])
@pytest.mark.parametrize("others", [0o010, 0o001, 0o020, 0o004, 0o770, 0o777])
def test_a_directory_that_others_may_enter_is_refused(tmp_path, level, others):
    place = tmp_path / "meshcache-1" / "default"
    secure(place)
    open_to_others = place.parent if level == "parent" else place
    open_to_others.chmod(0o700 | others)

    with pytest.raises(ConfigError, match=f"chmod 700 {open_to_others}.*runtime_dir="):
        secure(place)


@pytest.mark.parametrize("level", ["parent", "itself"])
def test_only_what_would_be_accepted_is_secure(tmp_path, level):
    place = tmp_path / "meshcache-1" / "default"
    before = (is_secure(place), place.parent.exists())
    secure(place)
    after = is_secure(place)
    (place.parent if level == "parent" else place).chmod(0o750)

    assert (False, False) == before
    assert after
    assert not is_secure(place)


def test_a_refusal_names_the_setting_that_would_help(tmp_path):
    with pytest.raises(ConfigError, match=r"^arena_dir=.*or set arena_dir= to one"):
        secure(tmp_path / "gone" / "meshcache-1" / "default", "arena_dir")


@pytest.mark.parametrize("level", ["parent", "itself"])
def test_a_link_is_refused_wherever_it_leads(tmp_path, level):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    place = tmp_path / "meshcache-1" / "default"
    link = place.parent if level == "parent" else place
    link.parent.mkdir(mode=0o700, exist_ok=True)
    link.symlink_to(elsewhere)

    with pytest.raises(
        ConfigError, match="a link to one; remove it, or set runtime_dir="
    ):
        secure(place)

    assert [] == list(elsewhere.iterdir())


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "meshcache-1").write_text("")

    with pytest.raises(ConfigError, match="not a directory"):
        secure(tmp_path / "meshcache-1" / "default")


def test_a_missing_runtime_directory_is_not_made(tmp_path):
    with pytest.raises(ConfigError, match=r"^runtime_dir=.*gone.*no such directory"):
        secure(tmp_path / "gone" / "meshcache-1" / "default")

    assert not (tmp_path / "gone").exists()


def test_a_directory_of_somebody_else_is_refused(tmp_path):
    theirs = Path("/usr")
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir(mode=0o700)
        os.chown(theirs, 12_345, -1)

    with pytest.raises(ConfigError, match=r"belongs to user \d+; .*runtime_dir="):
        secure(theirs / "default")
