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
    for nonsense in (
        "alice",
        ":public",
        "alice:conical",
        "a b:public",
        "a:public:1:2:3",
        "a:double:",
    ):
        with pytest.raises(ValueError, match=r"."):
            wanted(nonsense)


def test_help_has_an_example() -> None:
    done = subprocess.run([*ARGV, "--help"], env=ENVIRONMENT, check=True, stdout=PIPE, text=True)
    assert EXAMPLE in done.stdout


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
        "move bob internet break",
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
    assert "KeyError: 'nobody'" in said
    assert "in relay" in said
    assert re.search(r"\|-+ STUN -+>\|", said)
    namespace = re.search(r"ip netns exec (\S+)-relay bash", said)
    assert namespace
    assert not [name for name in names() if name.startswith(namespace[1])]


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
