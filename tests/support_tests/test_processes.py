"""Processes are counted, measured and found as they are."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support import processes, program


def test_programs_and_processes_are_counted():
    seen = processes.trace("sh", "-c", "true; /bin/echo 'a b' \"$(printf '\\377')\" x")
    assert seen.returncode == 0 and seen.stdout == "a b \udcff x\n"
    assert seen.execs[0][:2] == ["sh", "-c"]
    assert seen.execs[-1] == ["/bin/echo", "a b", "\udcff", "x"]
    assert seen.count("echo") == seen.count("echo", "a b") == 1
    assert seen.count("true") == 0


def test_threads_are_no_processes():
    script = """if True:
        import os, subprocess, threading
        for _ in range(5):
            thread = threading.Thread(target=subprocess.run, args=(["true"],))
            thread.start()
            thread.join()
        threads = [
            threading.Thread(target=subprocess.run, args=(["/bin/sleep", "0.1"],))
            for _ in range(5)
        ]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    seen = processes.trace(sys.executable, "-c", script)
    assert seen.count("sleep", "0.1") == 5 and seen.count("true") == 5
    assert len(seen.execs) == 11 and seen.processes == 10


def test_a_status_comes_through_the_trace():
    assert processes.trace("sh", "-c", "echo bad >&2; exit 3")[:3] == (3, "", "bad\n")
    assert processes.count_execs("/bin/sh", "-c", "/bin/true; /bin/true; :") == 2


def test_cost_is_that_of_the_command():
    spend = "sum(range(10**7))"
    cost = processes.measure(sys.executable, "-c", spend)
    assert 0.05 < cost.cpu_s < 20 and cost.returncode == 0
    assert processes.cpu_seconds("sleep", "0.3") < 0.1
    shell = processes.measure("sh", "-c", f"{sys.executable} -c '{spend}'; exit 4")
    assert shell.cpu_s > 0.05 and shell.returncode == 4


def test_the_peak_is_that_of_the_process_itself():
    big = "b = bytearray(300 << 20); import time; time.sleep(0.2)"
    assert processes.measure(sys.executable, "-c", big).peak_bytes > 300 << 20
    parent = processes.measure("sh", "-c", f"{sys.executable} -c '{big}'; true")
    assert parent.peak_bytes < 50 << 20


def test_descendants_are_found_killed_and_told_from_later_ones():
    script = "sleep 986 & sh -c 'sleep 987; :' & wait"
    with subprocess.Popen(["sh", "-c", script]) as process:

        def sleeps():
            words = [p.argv[:1] for p in processes.descendants(process.pid)]
            return words.count(("sleep",)) == 2

        processes.wait_until(sleeps)
        family = processes.descendants(process.pid)
        assert len(family) == 3
        assert {p.pid for p in processes.children(process.pid)} < {
            p.pid for p in family
        }
        assert all(p.alive() for p in family)
        reused = family[0]._replace(started=family[0].started - 1)
        assert not reused.alive()
        processes.kill(family, signal.SIGTERM)
    processes.wait_until(lambda: not any(p.alive() for p in family))
    assert processes.descendants(process.pid) == []


def test_waiting_gives_the_answer_or_fails():
    answers = iter([0, None, "", "yes"])
    assert processes.wait_until(lambda: next(answers)) == "yes"
    with pytest.raises(AssertionError, match="still"):
        processes.wait_until(lambda: False, 0.05)


def test_what_is_left_behind_is_seen():
    with processes.nothing_left_behind():
        subprocess.run(["true"])
    with pytest.raises(AssertionError, match="left open"):
        with processes.nothing_left_behind():
            file = os.open("/dev/null", os.O_RDONLY)
    os.close(file)
    with pytest.raises(AssertionError, match="left behind"):
        with processes.nothing_left_behind():
            process = subprocess.Popen(["true"])
            processes.wait_until(
                lambda: [p for p in processes.children(os.getpid()) if p.state == "Z"]
            )
    process.wait()


def test_the_program_is_given_a_changed_environment(monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    monkeypatch.setenv("AWAY", "x")
    environment = program.environment({"AWAY": None, "NEW": "y"})
    assert "SSH_AUTH_SOCK" not in environment and "AWAY" not in environment
    assert environment["NEW"] == "y"
    assert environment["PYTHONPATH"] == str(program.CHECKOUT)
