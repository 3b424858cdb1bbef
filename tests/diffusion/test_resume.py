"""Trainings in processes of their own that are killed with SIGKILL and started again."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_base import write_tiny_pictures

SCRIPT = Path(__file__).with_name("kill_training.py")


@pytest.fixture(scope="module")
def run(tiny_base_folder, tmp_path_factory):
    pictures = write_tiny_pictures(tmp_path_factory.mktemp("sets") / "squares")
    command = [sys.executable, str(SCRIPT), str(tiny_base_folder), str(pictures)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(checkpoints, out, jobs, *moment):
            """Exit status of a process of its own, and where each job went on from."""
            print(checkpoints, out, jobs, *moment, file=process.stdin, flush=True)
            *resumed, _, status = process.stdout.readline().split()
            return int(status), [int(step) for step in resumed]

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """What comes out where nothing is killed."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder / "states", folder / "ab", "ab") == (0, [0, 0])
    return (folder / "ab").read_bytes()


def test_killed_in_any_step_and_in_any_save_the_same_bits_come_out(run, whole, tmp_path):
    """One training, killed in a random step and in either file of a save."""
    killed_at = random.Random().randint(1, 6)
    for n, moment in enumerate([("save", "1"), ("save", "2"), ("step", str(killed_at))]):
        states, out = tmp_path / f"states{n}", tmp_path / f"out{n}"
        assert run(states, out, "ab", *moment)[0] == -signal.SIGKILL
        # And once more on the way from there: in the last save, or after it.
        assert run(states, out, "ab", "step", "7")[0] == -signal.SIGKILL
        assert not out.exists()
        assert run(states, out, "ab") == (0, [6, 6])
        assert out.read_bytes() == whole, (moment, killed_at)
        assert list(states.iterdir()) == [], "states and halves of files are removed"


def test_a_save_that_is_cut_off_does_not_count(run, whole, tmp_path):
    """The fourth file is the second one's second: the first of that save is whole."""
    states, out = tmp_path / "states", tmp_path / "out"
    assert run(states, out, "ab", "save", "4")[0] == -signal.SIGKILL
    assert run(states, out, "ab") == (0, [2, 2])
    assert out.read_bytes() == whole


def test_a_group_that_grows_trains_the_new_one_only(run, tmp_path):
    states = tmp_path / "states"
    assert run(states, tmp_path / "out", "ab", "step", "7")[0] == -signal.SIGKILL
    assert run(states, tmp_path / "out", "abc") == (0, [6, 6, 0])


def test_one_that_has_ended_waits_for_the_others(run, tmp_path):
    """Job s takes 3 of the 7 steps; the file of its end is the fourth."""
    assert run(tmp_path / "none", tmp_path / "whole", "as") == (0, [0, 0])
    for n, (moment, resumed) in enumerate({("step", "6"): [4, 3], ("save", "4"): [2, 2]}.items()):
        states, out = tmp_path / f"states{n}", tmp_path / f"out{n}"
        assert run(states, out, "as", *moment)[0] == -signal.SIGKILL
        assert run(states, out, "as") == (0, resumed)
        assert out.read_bytes() == (tmp_path / "whole").read_bytes()
        assert list(states.iterdir()) == []


def test_text_encoder_and_trigger_come_back_with_the_same_bits(run, tmp_path):
    assert run(tmp_path / "none", tmp_path / "whole", "ta") == (0, [0, 0])
    states, out = tmp_path / "states", tmp_path / "out"
    assert run(states, out, "ta", "step", "6")[0] == -signal.SIGKILL
    assert run(states, out, "ta") == (0, [4, 4])
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert b"t/word" in out.read_bytes()
