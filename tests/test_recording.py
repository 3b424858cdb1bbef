from pathlib import Path

from blockwise_lora.recording import _numbers, hash_path

ROOT = Path(__file__).parents[1]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path):
    one = write(tmp_path / "one", a="1", b="2")
    assert hash_path(one) == hash_path(write(tmp_path / "two", b="2", a="1"))
    others = [
        write(tmp_path / "three", a="2", b="1"),
        write(tmp_path / "four", a="1", c="2"),
        write(tmp_path / "five", a="1"),
    ]
    assert len({hash_path(folder) for folder in [one, *others]}) == 4


def test_hidden_files_do_not_count(tmp_path):
    one = write(tmp_path / "one", a="1")
    before = hash_path(one)
    (one / ".gitignore").write_text("a")
    assert hash_path(one) == before
    assert hash_path(one / "a") != before


def test_scores_are_the_numbers_among_the_results():
    tree = {"both": {"identity": {"mean": 0.5, "low": 0.4}, "n": 4}, "note": "x", "won": True}
    assert _numbers(tree) == {"both.identity.mean": 0.5, "both.identity.low": 0.4, "both.n": 4.0}
