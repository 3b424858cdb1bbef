from blockwise_lora.imagesets.captioning import TextLimit


def limit(most, calls=None):
    def count(text):
        if calls is not None:
            calls.append(text)
        return len(text.split()) + 2

    return TextLimit(count, most)


def test_counts_and_the_warning_names_the_longest_first():
    captions = ["a b c", "a", "a b c d"]
    counts = limit(5).counts(captions)
    assert counts == [5, 3, 6]
    assert limit(6).warning(["x", "y", "z"], counts) == ""
    warning = limit(4).warning(["x", "y", "z"], counts)
    assert warning.startswith("2 captions have more tokens than the 4")
    assert "z (6), x (5)" in warning
    many = limit(2).warning([f"{i}.png" for i in range(9)], [3] * 9)
    assert "4.png (3) and 4 more" in many


def test_equal_captions_are_counted_once():
    calls = []
    assert limit(9, calls).counts(["a", "a", "b"]) == [3, 3, 3]
    assert sorted(calls) == ["a", "b"]
