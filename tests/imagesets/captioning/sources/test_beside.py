from blockwise_lora.imagesets.captioning.sources.beside import Beside


def test_each_takes_its_own_text_and_empty_ones_are_none(subject):
    subjects = [subject("a", sidecar="x", metadata="y"), subject("b", metadata=""), subject("c")]
    assert Beside("sidecar").captions(subjects) == ["x", None, None]
    assert Beside("metadata").captions(subjects) == ["y", None, None]
