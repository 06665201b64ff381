"""One node's settings: their bounds, where they come from, what their errors teach."""

from dataclasses import FrozenInstanceError, fields, replace
from datetime import timedelta
from pathlib import Path

import pytest

from meshcache.codec import messages
from meshcache.config import PRESETS, Config, disabled
from meshcache.config.config import ORDERS
from meshcache.config.setting import Setting
from meshcache.errors import ConfigError

SECRET = "correct horse battery"
SETTINGS = {spec.name: Setting.of(spec) for spec in fields(Config)}
NUMBERS = [name for name, known in SETTINGS.items() if "to" in known.bound.split()]
PLAIN = [
    name
    for name in NUMBERS
    if SETTINGS[name].unit.name in {"count", "seconds", "bytes"}
]
PLAIN.remove("cluster")


def test_the_defaults_stand_together():
    config = Config()

    assert "127.0.0.1:0" == config.bind
    assert 64_000_000 == config.max_bytes


def test_a_config_does_not_change():
    config = Config()

    with pytest.raises(FrozenInstanceError):
        config.max_bytes = 1


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_says_what_it_is_and_how_to_choose_it(name):
    known = SETTINGS[name]

    assert known.meaning.endswith(".")
    assert known.choose.endswith(".")
    assert known.bound


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("end", ["low", "high"])
def test_each_number_is_refused_beyond_its_bounds(name, end):
    step = -1 if end == "low" else 1
    value = getattr(SETTINGS[name], end) + step

    with pytest.raises(ConfigError, match=rf"^{name}=.*: allowed is ") as caught:
        Config(**{name: value})

    assert str(value) in str(caught.value)
    assert SETTINGS[name].choose in str(caught.value)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("end", ["low", "high"])
def test_each_number_is_itself_allowed_at_its_bounds(name, end):
    value = getattr(SETTINGS[name], end)

    found = SETTINGS[name].read(name, value)

    assert value == found


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", [object(), b"\xff", [object()], -1.5])
def test_nonsense_is_a_config_error_that_names_the_setting(name, value):
    with pytest.raises(ConfigError, match=rf"^{name}="):
        Config(**{name: value})


def test_a_nan_is_out_of_every_bound():
    with pytest.raises(ConfigError, match=r"^near_ttl=nan: allowed is 0s to 1d"):
        Config(near_ttl=float("nan"))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.less)
def test_settings_that_depend_on_each_other_are_checked_together(order):
    crossed = {order.less: 40, order.more: 35}
    if SETTINGS[order.less].unit.name == "bytes":
        crossed = {order.less: 2**29, order.more: 2**28}

    with pytest.raises(ConfigError, match=rf"^{order.less}=.*{order.more}=.*raise"):
        Config(**crossed)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.less)
def test_equal_values_keep_an_order_unless_it_is_strict(order):
    value = 2**28 if SETTINGS[order.less].unit.name == "bytes" else 40
    equal = {order.less: value, order.more: value}

    if order.sign == "<=":
        assert value == getattr(Config(**equal), order.less)
    else:
        with pytest.raises(ConfigError, match=rf"^{order.less}="):
            Config(**equal)


@pytest.mark.parametrize(
    ("max_bytes", "expected"), [("64MB", 8_000_000), ("32GiB", 2**30), ("8MiB", 2**20)]
)
def test_a_value_may_take_an_eighth_of_the_memory_by_default(max_bytes, expected):
    config = Config(max_bytes=max_bytes)

    assert expected == config.max_value_bytes


def test_a_config_can_be_replaced_in_part():
    config = replace(Config(max_value_bytes="1MB"), cluster="other")

    assert ("other", 1_000_000) == (config.cluster, config.max_value_bytes)


def test_values_are_taken_as_people_write_them():
    config = Config(
        max_bytes="1GiB", request_timeout="500ms", near_ttl=timedelta(minutes=1)
    )

    assert 2**30 == config.max_bytes
    assert 0.5 == config.request_timeout
    assert 60.0 == config.near_ttl


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\0b", "a\nb", "x" * 65, "é" * 33, "\ud800"]
)
def test_a_cluster_name_is_short_and_printable(name):
    with pytest.raises(ConfigError, match=r"^cluster="):
        Config(cluster=name)


@pytest.mark.parametrize(
    "name", ["x", "x" * 64, "é" * 32, "my shop (test)", "..", "%2f"]
)
def test_any_other_cluster_name_is_allowed(name):
    config = Config(cluster=name)

    assert name == config.cluster


@pytest.mark.parametrize("bind", ["0.0.0.0:7946", "[::]:7946", "10.0.0.7:0", "eth0:0"])
def test_other_machines_are_let_in_only_with_a_secret(bind):
    with pytest.raises(
        ConfigError, match=r"other machines can connect.*MESHCACHE_SECRET"
    ):
        Config(bind=bind)

    assert bind == Config(bind=bind, secret=SECRET).bind
    assert bind == Config(bind=bind, insecure=True).bind


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:7946", "localhost:7946"])
def test_loopback_needs_no_secret(bind):
    config = Config(bind=bind)

    assert bind == str(config.bind_address)


def test_two_listeners_do_not_share_a_port():
    with pytest.raises(ConfigError, match=r"^data_port=7946: already taken by bind"):
        Config(bind="127.0.0.1:7946", data_port=7946)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("10.0.0.7", "10.0.0.7"), ("[::1]", "[::1]"), ("Mesh:7946", "mesh:7946")],
)
def test_a_host_may_be_advertised_with_or_without_a_port(written, expected):
    config = Config(advertise=written)

    assert expected == config.advertise


@pytest.mark.parametrize("written", ["0.0.0.0", "[::]:7946", "", "::1"])
def test_what_no_peer_can_connect_to_is_not_advertised(written):
    with pytest.raises(ConfigError, match=r"^advertise="):
        Config(advertise=written)


def test_a_secret_is_long_and_its_surrounding_space_is_no_part_of_it():
    config = Config(secret=f" {SECRET}\n")

    assert SECRET == config.secret
    with pytest.raises(ConfigError, match="16 to 1,024 characters"):
        Config(secret="x" * 15 + " \n")


@pytest.mark.parametrize("secret", ["hunter2", 123456, ["hunter2", "hunter2"]])
def test_a_secret_is_never_shown(secret):
    with pytest.raises(ConfigError) as caught:
        Config(secret=secret)

    assert "hunter2" not in str(caught.value)
    assert "123456" not in str(caught.value)
    config = Config(secret=SECRET)
    assert SECRET not in repr(config)
    assert SECRET not in config.describe()


def find_peers():
    return ["10.0.0.7:7946"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ((), ()),
        ("", ()),
        ("10.0.0.7:7946", ("10.0.0.7:7946",)),
        ("10.0.0.7:1, dns://Mesh.local:2,", ("10.0.0.7:1", "dns://mesh.local:2")),
        (["10.0.0.7:1", "10.0.0.7:1"], ("10.0.0.7:1",)),
        (find_peers, (find_peers,)),
        ([find_peers, "[0::1]:1"], (find_peers, "[::1]:1")),
        (iter(["DNS://a:1"]), ("dns://a:1",)),
    ],
)
def test_seeds_are_addresses_names_and_callables(written, expected):
    config = Config(seeds=written)

    assert expected == config.seeds


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("10.0.0.7", "'10.0.0.7' is no seed: no port"),
        (["a:1", "srv://b:1"], "'srv://b:1' is no seed.*dns://name:port"),
        (["a:1", 7946], "7946 is no seed"),
        (7946, "not seeds"),
        ([f"h{i}:1" for i in range(1025)], "0 to 1,024 seeds"),
    ],
)
def test_a_bad_seed_is_named(written, reason):
    with pytest.raises(ConfigError, match=reason):
        Config(seeds=written)


def test_an_endless_list_of_seeds_is_refused():
    endless = (find_peers for _ in iter(int, 1))

    with pytest.raises(ConfigError, match="0 to 1,024 seeds"):
        Config(seeds=endless)


def test_a_runtime_directory_is_an_absolute_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert "/home/me/run" == Config(runtime_dir=Path("~/run")).runtime_dir
    assert str(Path.cwd() / "run") == Config(runtime_dir="run").runtime_dir


@pytest.mark.parametrize(
    "path", ["", "a\0b", "~nobody-of-that-name/run", "/" + "x" * 4096]
)
def test_a_path_that_cannot_be_is_refused(path):
    with pytest.raises(ConfigError, match=r"^runtime_dir="):
        Config(runtime_dir=path)


def test_replicas_are_refused_until_there_is_replication():
    with pytest.raises(
        ConfigError, match=r"^replicas=1: allowed is 0\. Copies come with"
    ):
        Config(replicas=1)


def test_a_keyword_wins_over_the_environment_and_that_over_the_preset():
    environ = {
        "MESHCACHE_PRESET": "lan",
        "MESHCACHE_DATA_PORT": "8000",
        "MESHCACHE_SECRET": SECRET,
        "MESHCACHE_CLUSTER": "from-environment",
        "MESHCACHE_SEEDS": "a:1,b:2",
        "MESHCACHE_OBSERVER": "yes",
    }

    config = Config.load(environ, cluster="from-keyword")

    assert "from-keyword" == config.cluster
    assert 8000 == config.data_port
    assert "0.0.0.0:7946" == config.bind
    assert 64_000_000 == config.max_bytes
    assert ("a:1", "b:2") == config.seeds
    assert config.observer


def test_the_preset_host_is_the_defaults():
    config = Config.load({}, preset="host")

    assert Config() == config == Config.load({})


def test_the_preset_may_be_a_keyword_too():
    config = Config.load({"MESHCACHE_PRESET": "host"}, preset="lan", secret=SECRET)

    assert "0.0.0.0:7946" == config.bind


def test_the_preset_lan_asks_for_a_secret():
    with pytest.raises(ConfigError, match="MESHCACHE_SECRET"):
        Config.load({}, preset="lan")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_there_is(name):
    assert set(PRESETS[name]) <= set(SETTINGS)


@pytest.mark.parametrize("preset", ["wan", None, []])
def test_an_unknown_preset_is_refused(preset):
    with pytest.raises(ConfigError, match=r"^preset=.*choose host or lan"):
        Config.load({}, preset=preset)


def test_an_unknown_keyword_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"^max_byte: .*did you mean max_bytes\?"):
        Config.load({}, max_byte=1)


def test_an_unknown_variable_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"did you mean MESHCACHE_SECRET\?") as caught:
        Config.load({"MESHCACHE_SECRT": SECRET})

    assert SECRET not in str(caught.value)


def test_a_name_like_no_other_is_told_where_the_names_are():
    with pytest.raises(ConfigError, match=r"python -m meshcache.config"):
        Config.load({}, zzzzzz=1)


def test_variables_of_others_are_not_looked_at():
    config = Config.load({"PATH": "/bin", "MESHCACHED": "1", "max_bytes": "1"})

    assert Config() == config


def test_an_empty_variable_counts_as_not_set():
    config = Config.load({"MESHCACHE_SECRET": "", "MESHCACHE_MAX_BYTES": ""})

    assert Config() == config


def test_a_bad_variable_is_named_as_it_was_written():
    with pytest.raises(ConfigError, match=r"^MESHCACHE_MAX_BYTES='64MX': not a size"):
        Config.load({"MESHCACHE_MAX_BYTES": "64MX"})


@pytest.mark.parametrize(
    ("text", "expected"), [("", False), ("1", True), ("no", False)]
)
def test_meshcache_can_be_disabled_by_a_variable(text, expected):
    environ = {"MESHCACHE_DISABLE": text}

    assert expected is disabled(environ)
    assert Config() == Config.load(environ)


def test_meshcache_is_not_disabled_by_default_nor_by_mistake():
    assert not disabled({})
    with pytest.raises(ConfigError, match=r"^MESHCACHE_DISABLE='maybe'"):
        disabled({"MESHCACHE_DISABLE": "maybe"})


def test_the_values_in_force_are_listed():
    text = Config(cluster="a|b", seeds=find_peers).describe()

    assert r"| `cluster` | a\|b | default |" in text
    assert "| `max_value_bytes` | 8MB | an eighth" in text
    assert "| `seeds` | find_peers | none |" in text
    assert len(SETTINGS) + 2 == len(text.splitlines())


@pytest.mark.parametrize(
    ("name", "codec_limit"),
    [
        ("max_batch_keys", messages.MAX_ITEMS),
        ("max_updates", messages.MAX_UPDATES),
        ("max_key_bytes", messages.Key.__metadata__[0].high),
        ("max_value_bytes", messages.Blob.__metadata__[0].high),
    ],
)
def test_no_setting_allows_what_the_wire_does_not(name, codec_limit):
    assert SETTINGS[name].high <= codec_limit
