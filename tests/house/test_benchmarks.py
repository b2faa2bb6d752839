"""The benchmarks still run: one small case of them, and the files that it writes."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.bench import Aim, Bench, Cost, Result, images
from benchmarks.cases import CASES
from benchmarks.main import main
from tests.support.program import CHECKOUT


@pytest.mark.btrfs
@pytest.mark.ssh
def test_a_quick_run_of_one_case_writes_its_results(tmp_path: Path):
    only = ["--quick", "--only", "first-ssh", "--pairs", "1"]
    words = [str(CHECKOUT / "benchmarks" / "run"), *only, "--output", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "first-ssh: against btrfs send | ssh" in done.stdout, done
    document = json.loads((tmp_path / "results.json").read_text())
    (case,) = document["cases"]
    assert document["machine"]["cores"] and case["name"] == "first-ssh"
    (ours,), (theirs,) = case["ours"], case["theirs"]
    assert ours["connections"] == theirs["connections"] == 1
    assert min(ours["cpu_s"], theirs["cpu_s"], ours["peak_bytes"]) > 0
    assert "a first backup of 20 MB over ssh" in (tmp_path / "results.md").read_text()
    assert ElementTree.parse(tmp_path / "results.svg").getroot().tag.endswith("svg")


@pytest.mark.btrfs
def test_a_large_disk_is_where_the_results_say():
    with Bench(1, 0.05) as bench, bench.filesystem() as made:
        assert made.image.parent == (images() or bench.directory)


def test_a_result_is_judged_by_the_medians_of_its_pairs():
    ours = tuple(Cost(elapsed, 1.0, 1) for elapsed in (1.0, 9.0, 2.0))
    theirs = tuple(Cost(elapsed, 2.0, 1) for elapsed in (1.0, 3.0, 4.0))
    result = Result("name", "title", "peer", ours, theirs)
    assert result.ratios("elapsed_s") == [1.0, 3.0, 0.5]
    for aim, is_reached in (
        (Aim(wall=1.0, cpu=0.5, cpu_s=1.0), True),
        (Aim(wall=0.9), False),
        (Aim(cpu=0.4), False),
        (Aim(cpu_s=0.9), False),
    ):
        assert Result(*("name", "title", "peer", ours, theirs, aim)).is_reached is (
            is_reached
        )


def test_cases_are_chosen_by_the_beginning_of_their_names(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(CASES)
    with pytest.raises(SystemExit):
        main(["--only", "no such case"])
