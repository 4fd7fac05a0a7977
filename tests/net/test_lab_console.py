"""The laboratory by hand, as ``make lab`` starts it."""

import os
import re
import signal
import subprocess
import sys

import pytest
from net import lab, lab_mapper
from net.handover import ROOT
from net.lab_console import EXAMPLE, Wanted, wanted
from net.lab_namespaces import names
from net.lab_routers import Kind

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
ARGV = [sys.executable, "-m", "net.lab_console"]
PIPE = subprocess.PIPE


def test_arguments_say_who_is_where_and_how_good_the_link_is() -> None:
    assert wanted("alice:symmetric") == Wanted(("alice",), Kind.SYMMETRIC)
    assert wanted("bob,carol:mapped:40:1.5") == Wanted(("bob", "carol"), Kind.MAPPED, 0.04, 0.015)
    assert [wanted(text).names for text in EXAMPLE.split()]


@pytest.mark.parametrize(
    ("nonsense", "why"),
    [
        ("alice", r"'alice' is not of the form NAMES:KIND\[:MILLISECONDS\[:PERCENT\]\]"),
        ("a:public:1:2:3", "is not of the form"),
        (":public", "'' in ':public' is no name: letters and digits only"),
        ("a b:public", "'a b' in .* is no name"),
        ("alice:foo", "'foo' in 'alice:foo' is no kind of home; there are: public, .*udp-blocked"),
        ("a:double:", "'' is no number of milliseconds from 0 to 60000"),
        ("a:double:-5", "'-5' is no number of milliseconds"),
        ("a:double:nan", "'nan' is no number of milliseconds"),
        ("a:double:5:200", "'200' is no number of percent from 0 to 100"),
    ],
)
def test_what_cannot_be_read_is_told_why(nonsense: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        wanted(nonsense)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["alice"], "'alice' is not of the form"),
        (["a:public", "a:symmetric"], "a is there twice: a host is at one place"),
        (["a,a:symmetric"], "a is there twice"),
        (["echo1:public"], "echo1 is what the laboratory has itself: take another name"),
        (["internet:public"], "internet is what the laboratory has itself"),
        (["--ipv6-only", "a:mapped"], "a home of kind mapped needs IPv4"),
        ([",".join(f"a{n}" for n in range(10)) + ":double"], "10 hosts in one home are too many"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(arguments: list[str], why: str) -> None:
    done = subprocess.run(
        [*ARGV, *arguments], env=ENVIRONMENT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_an_example() -> None:
    done = subprocess.run([*ARGV, "--help"], env=ENVIRONMENT, check=True, stdout=PIPE, text=True)
    assert EXAMPLE in done.stdout
    assert all(re.search(rf"[ \n]{kind}[,.]", done.stdout) for kind in Kind)  # none is broken


@pytest.fixture
def _possible() -> None:
    if why := lab.missing(lab_mapper.PROGRAM):
        pytest.skip(why)


@pytest.mark.net
@pytest.mark.usefixtures("_possible")
def test_commands_do_what_they_say_and_the_end_takes_all_down() -> None:
    commands = [
        "measure alice",
        "cut nobody",
        "move bob",
        "move bob nowhere",
        "move bob internet break",
        "move bob internet",
        "worsen bob",
        "worsen bob -5",
        "worsen bob 20",
        "measure bob",
        "cut alice",
        "mend alice",
        "reboot alice.home",
        "measure alice",
        "shell relay sh -c 'echo in $HIPLAB'",
        "ladder",
        "nonsense",
    ]
    argv = [*ARGV, "alice:symmetric", "bob:port-restricted:10", "relay:public"]
    done = subprocess.run(
        argv,
        env=ENVIRONMENT,
        check=True,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        input="\n".join([*commands, ""]),
    )
    said = done.stdout
    assert not done.stderr
    assert said.count("mapping: address and port-dependent") == 2
    assert said.count("mapping: endpoint-independent, filtering: endpoint-independent") == 1
    assert "'nobody' is no host or home; there are: echo1, echo2, alice, alice.home" in said
    assert "say it so: move HOST HOME [break]: to another home" in said
    assert "'nowhere' is no home; there are: alice.home, bob.home" in said
    assert "bob is already at internet" in said
    assert "say it so: worsen NAME MILLISECONDS [PERCENT]" in said
    assert "'-5' is no number of milliseconds" in said
    assert "in relay" in said
    assert re.search(r"\|-+ STUN -+>\|", said)
    namespace = re.search(r"ip netns exec (\S+)-relay bash", said)
    assert namespace
    assert not [name for name in names() if name.startswith(namespace[1])]


@pytest.mark.net
@pytest.mark.usefixtures("_possible")
def test_there_can_be_ipv6_only() -> None:
    done = subprocess.run(
        [*ARGV, "--ipv6-only", "alice:double", "relay:public"],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
        input="measure alice\n",
    )
    assert re.search(r"\[(2a00:\S+)\]:(\d+) is seen as \[\1\]:\2\n", done.stdout)
    assert not re.search(r"\d\.\d+\.\d+\.\d", done.stdout)


@pytest.mark.net
@pytest.mark.usefixtures("_possible")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_all_down(ending: signal.Signals) -> None:
    # what a shell starts in the background ignores SIGINT, and so would this
    argv = ["env", f"--default-signal={ending.name[3:]}", *ARGV, "alice:mapped:5"]
    with subprocess.Popen(argv, env=ENVIRONMENT, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout
        said = iter(process.stdout)
        prefix = f"{lab.PREFIX}{process.pid}-"
        assert next(line for line in said if "lists the commands" in line)
        assert any(name.startswith(prefix) for name in names())
        process.send_signal(ending)
        process.wait(10)
    assert not any(name.startswith(prefix) for name in names())
