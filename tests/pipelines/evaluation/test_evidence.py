from dataclasses import replace

import pytest
from PIL import Image

from blockwise_lora.diffusion.combination import CombinationConfig, Strengths
from blockwise_lora.diffusion.prompts import Concept, PromptTemplate, fill
from blockwise_lora.diffusion.samples import Origin, SampleRow, SampleSet
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.imagesets import ImageSetError, read_imagefolder
from blockwise_lora.judges.panel import fingerprint
from blockwise_lora.pipelines.evaluation.evidence import (
    EvidenceError,
    OpenedSet,
    check_adapters,
    check_prompts,
    find_variants,
    sampled_otherwise,
    to_questions,
    to_samples,
)

TEMPLATES = ("{style}, {character}, sad", "{style}, {character}, glad")
WORDS = {"character": Concept("zkc", "cat face"), "style": Concept("qwo", "style")}


def made(variant: str, conditions=("both",), seeds=(0, 1), templates=TEMPLATES) -> SampleSet:
    rows = tuple(
        SampleRow(c, i, fill(t, c, *WORDS.values()), seed, variant)
        for c in conditions
        for i, t in enumerate(templates)
        for seed in seeds
    )
    return SampleSet(rows, tuple(Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(len(rows))))


def test_variants_that_exist_are_compared_in_the_order_wanted():
    found = {name: lambda name=name: name for name in ("base", "locon", "lora", "stray")}
    there, warnings = find_variants(["lora", "own", "locon", "lora"], found)
    assert list(there) == ["lora", "locon"]
    assert warnings == ("own is missing: it was not made yet (kedro run --params variant=own).",)


def test_the_runs_own_variant_is_shown_where_none_of_the_others_exists():
    """As in a fresh clone: `kedro run --params variant=own`."""
    found = {"own": lambda: "pictures"}
    there, (warning,) = find_variants(["lora"], found, made="own")
    assert there == {"own": "pictures"} and warning.startswith("lora is missing")
    found["lora"] = lambda: "others"
    assert find_variants(["lora"], found, made="own") == ({"lora": "others"}, ())
    with pytest.raises(EvidenceError, match="no pictures of lora"):
        find_variants(["lora"], {}, made="own")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ["lora"],
            r"no pictures of lora to compare: .*kedro run --params variant=lora",
        ),
        ([], r"no pictures of any variant"),
        (["base"], r"'base' is the name of one of the table's own rows"),
    ],
)
def test_nothing_to_compare_is_an_error_with_a_remedy(wanted, message):
    with pytest.raises(EvidenceError, match=message):
        find_variants(wanted, {"base": lambda: None})


def test_pictures_of_todays_prompts_pass():
    check_prompts(made("own", ("character", "style", "both")), TEMPLATES, **WORDS, variant="own")


def test_pictures_of_other_prompts_are_refused():
    with pytest.raises(EvidenceError, match=r"own are of 2 prompts, the parameters have 1: sample"):
        check_prompts(made("own"), TEMPLATES[:1], **WORDS, variant="own")
    with pytest.raises(EvidenceError, match=r"made with the prompt 'qwo style, zkc cat face, sad'"):
        check_prompts(made("own"), TEMPLATES[::-1], **WORDS, variant="own")
    renamed = WORDS | {"character": Concept("abc", "cat face")}
    with pytest.raises(EvidenceError, match=r"--pipelines combination --params variant=own"):
        check_prompts(made("own"), TEMPLATES, **renamed, variant="own")


def test_pictures_of_todays_adapters_pass_and_of_others_do_not():
    hashes = {"character": "a1" * 32, "style": "b2" * 32}
    samples = replace(made("own"), origin=Origin(hashes, CombinationConfig()))
    check_adapters(samples, hashes, "own")
    check_adapters(samples, {"style": "b2" * 32}, "own")  # the other one is gone
    check_adapters(made("own"), hashes, "own")  # it is not told
    with pytest.raises(
        EvidenceError,
        match=r"own were made with another character adapter \(a1a1a1a1\).*\(c3c3c3c3\): "
        r"sample again: `kedro run --env sd15 --pipelines combination --params variant=own`",
    ):
        check_adapters(samples, hashes | {"character": "c3" * 32}, "own", "sd15")


def test_what_was_sampled_otherwise_is_told():
    def by(**sampling) -> SampleSet:
        config = CombinationConfig(strengths=Strengths(0.5), sampling=SamplingConfig(**sampling))
        return replace(made("own"), origin=Origin({}, config))

    base = by(steps=12, batch_size=4)
    same = {"own": by(steps=12, batch_size=1), "old": made("old")}
    assert sampled_otherwise(base, same) == sampled_otherwise(made("base"), same) == ()
    (warning,) = sampled_otherwise(base, {"own": by(steps=25, guidance_scale=7.0)}, "sd15")
    assert "own was sampled otherwise" in warning
    assert "steps 25 instead of 12, guidance_scale 7.0 instead of 4.0" in warning
    assert "kedro run --env sd15 --pipelines combination --params variant=own" in warning


def test_hints_name_the_environment():
    _, (warning,) = find_variants(["lora", "own"], {"own": lambda: None}, "sd15")
    assert "(kedro run --env sd15 --params variant=lora)" in warning


def test_only_common_seeds_are_compared():
    samples, warnings = to_samples(made("base", ("base",), (0, 1, 2)), {"own": made("own")})
    assert {s.seed for s in samples} == {0, 1}
    assert {str(s.row) for s in samples} == {"base", "own/both"}
    assert warnings == ("Seeds that not every variant has were left out: 2.",)
    assert to_samples(made("base", ("base",)), {"own": made("own")})[1] == ()


def test_no_common_seed_is_an_error():
    with pytest.raises(EvidenceError, match=r"no seed in common \(base: \[7\]; own: \[0, 1\]\)"):
        to_samples(made("base", ("base",), (7,)), {"own": made("own")})


@pytest.fixture
def style(project) -> OpenedSet:
    return OpenedSet.of(read_imagefolder(project.data / "03_primary" / "style"))


def questions(project, style, **changes):
    prompt = replace(PromptTemplate("x", "sad.png", "face.png"), **changes)
    folder = project.parameters["style"]["pictures"]
    return to_questions([prompt], ["a sad cat"], project.parameters["truth"], style, folder)


def test_a_question_has_its_pictures(project, style):
    (question,) = questions(project, style)
    assert question.text == "a sad cat"
    assert question.truth.size == (64, 64)
    # The one that was trained on, not its original: so it is known for itself.
    assert fingerprint(question.style_picture) in map(fingerprint, style.pictures)


def test_a_style_picture_that_curation_dropped_is_taken_from_its_folder(project, style):
    kept = [i for i, p in enumerate(style.images) if p.source != "face.png"]
    pictures = tuple(style.pictures[i] for i in kept)
    fewer = replace(style.images, pictures=tuple(style.images[i] for i in kept))
    (question,) = questions(project, OpenedSet(fewer, pictures))
    assert question.style_picture.size == (64, 64)


def test_what_a_prompt_does_not_name_is_not_there(project, style):
    (question,) = questions(project, style, truth=None, style_picture=None)
    assert (question.truth, question.style_picture) == (None, None)


@pytest.mark.parametrize("name", ["truth", "style_picture"])
def test_a_missing_picture_names_the_parameter(project, style, name):
    with pytest.raises(EvidenceError, match=rf"prompts\[0\]\.{name}: there is no .*nowhere\.png"):
        questions(project, style, **{name: "nowhere.png"})


def test_a_damaged_true_picture_is_named(project, style):
    (project.data.parent / "raw" / "truth" / "sad.png").write_bytes(b"no picture")
    with pytest.raises(ImageSetError, match=r"sad\.png"):
        questions(project, style)
