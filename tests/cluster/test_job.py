"""Every value that reaches a script or a command is refused by pattern, or plain."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import Environment, Resources, check_path
from morphseq_dagster.settings.ssh_address import SshAddress

KEY = "0123456789abcdef" * 2
PLAIN = re.compile(r"[A-Za-z0-9_.,:&|*()\[\]-]+")
TEXTS = [field.name for field in fields(Resources) if field.name != "cpus"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partition", "cpu,gpu"),
        ("account", "lab_1"),
        ("qos", "long-2.5"),
        ("memory", "16G"),
        ("gpus", "2"),
        ("gpus", "a100:1"),
        ("time", "90"),
        ("time", "12:00:00"),
        ("time", "2-06:00:00"),
        ("constraint", "[rack1*2&rack2*4]|fast"),
        ("exclude", "n[1-3,7],m2"),
    ],
)
def test_ordinary_values_are_accepted(name: str, value: str) -> None:
    assert Resources(**{name: value}).as_dict()[name] == value


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a;b", "$(id)", "`id`", "a\nb", "a'b", 'a"b', "-x", "a\\b", "#a", "ä", "a\x00", "a\n"]
)
def test_unsafe_values_are_refused_and_named(name: str, value: str) -> None:
    with pytest.raises(PermanentError, match=name):
        Resources(**{name: value})


@given(st.sampled_from(TEXTS), st.text(max_size=20))
def test_whatever_is_accepted_is_plain(name: str, value: str) -> None:
    try:
        Resources(**{name: value})
    except PermanentError:
        return
    assert PLAIN.fullmatch(value)
    assert not value.startswith("-")


@pytest.mark.parametrize("cpus", [0, -1, 5000, True, "4", 1.0])
def test_cpus_are_a_whole_number_in_range(cpus: object) -> None:
    with pytest.raises(PermanentError, match="cpus"):
        Resources(cpus=cpus)  # type: ignore[arg-type]


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(PermanentError) as caught:
        Resources(partition="a b", memory="much", time="soon", cpus=0)
    assert all(name in str(caught.value) for name in ("partition", "memory", "time", "cpus"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("01:30:10", 5410), ("1-0", 86400), ("1-02", 93600), ("1-02:03", 93780), ("2-00:00:01", 172801)],
)
def test_time_limit_in_seconds(text: str, seconds: int) -> None:
    assert Resources(time=text).time_s == seconds


def test_memory_is_read_and_doubled() -> None:
    assert Resources(memory="3G").memory_mb == 3072
    assert Resources(memory="512K").memory_mb == 0.5
    assert Resources(memory="3G").with_memory_doubled().memory == "6G"
    assert Resources().with_memory_doubled() == Resources()


def test_excluded_nodes_are_added_once() -> None:
    assert Resources(exclude="n1").without_nodes(("n2", "n1")).exclude == "n1,n2"


@pytest.mark.parametrize("variables", [{"A B": "x"}, {"A": "x\ny"}, {"A": "$(id)"}, {"1A": "x"}, {"A": "x'y"}])
def test_unsafe_variables_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(PermanentError):
        Environment(variables=variables)


@pytest.mark.parametrize("path", ["relative", "/a b", "/a;b", "/a'b", "", "/a\n"])
def test_paths_that_would_need_quoting_are_refused(path: str) -> None:
    with pytest.raises(PermanentError):
        check_path(path)
    with pytest.raises(PermanentError):
        Environment(preamble=path)


@pytest.mark.parametrize(
    "change",
    [
        {"group": ("..",)},
        {"group": ("a/b",)},
        {"group": ("",)},
        {"group": (".hidden",)},
        {"group": ("x" * 201,)},
        {"key": "g" * 32},
        {"key": "a" * 31},
        {"command": ()},
        {"command": ("a b",)},
        {"command": ("$HOME",)},
        {"warn_s": -1},
    ],
)
def test_names_and_arguments_that_are_not_plain_are_refused(change: dict[str, object]) -> None:
    values: dict[str, object] = {"group": ("step", "20240418"), "key": KEY, "command": ("true",)} | change
    with pytest.raises(PermanentError, match="nothing was sent"):
        JobSpec(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"host": "-oProxyCommand=id"},
        {"host": "a b"},
        {"user": "-l"},
        {"jump": "-x"},
        {"jump": "a,b c"},
        {"port": 0},
        {"key": "a b"},
        {"known_hosts": "a;b"},
    ],
)
def test_address_that_could_be_read_as_an_option_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PermanentError):
        SshAddress(**({"host": "login"} | change))  # type: ignore[arg-type]


def test_unknown_host_keys_are_never_accepted() -> None:
    options = SshAddress(host="login", port=22, user="me", key="/k", known_hosts="/h", jump="me@gate:22").options()
    assert "StrictHostKeyChecking=yes" in options
    assert "BatchMode=yes" in options
