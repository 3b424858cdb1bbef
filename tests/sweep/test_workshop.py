"""A small study and a small search in the embedded world, from pictures to an answer."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.prompts import Concept, fill_all
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import read_imagefolder
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Question, References
from blockwise_lora.sweep.bank import Bank, Lesson
from blockwise_lora.sweep.candidates import Space, alone, skips
from blockwise_lora.sweep.outcome import row_of
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.recommendation import FULL_PAIR, Budget, Search
from blockwise_lora.sweep.records import mask_records
from blockwise_lora.sweep.search import SEEN_AGAIN, looked_at, open_study
from blockwise_lora.sweep.studies import CONCEPTS, Pair, own_study
from blockwise_lora.sweep.workshop import Workshop, run_study

DATA = Path(__file__).parents[2] / "data"
WORDS = {"character": Concept("zkc", "cat face"), "style": Concept("qwo", "style")}
RAW = {"character": "characters/cat", "style": "styles/openmoji"}


def image_folder(folder: Path, concept: str) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for path in sorted((DATA / "01_raw" / RAW[concept]).glob("*.png"))[:8]:
        shutil.copy(path, folder / path.name)
        lines.append(json.dumps({"file_name": path.name, "text": f"zkc {path.stem}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def brief(seeds: tuple[int, ...], *prompts: str) -> tuple[Brief, list[Question]]:
    templates = tuple("{style}, {character}, " + prompt for prompt in prompts)
    plain = fill_all(templates, "base", WORDS["character"], WORDS["style"])
    sampling = SamplingConfig(steps=3, guidance_scale=2.0, center_noise=True)
    return Brief(templates, seeds, **WORDS, sampling=sampling), [Question(text) for text in plain]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Workshop:
    root = tmp_path_factory.mktemp("sweep")
    config = TrainingConfig(steps=6, batch_size=2, learning_rate=3e-3)
    lessons, pictures = {}, {}
    for concept in CONCEPTS:
        images = read_imagefolder(image_folder(root / concept, concept))
        pictures[concept] = tuple(Image.open(p.path).convert("RGB") for p in images)
        spec = AdapterSpec(rank=4)
        lessons[concept] = Lesson(concept, images, spec, config, {"concept": concept})
    models = DATA / "06_models"
    judges = JudgeConfig(str(models / "judges" / "clip"), str(models / "judges" / "dino"))
    return Workshop(
        base=load_base(models / "base"),
        lessons=lessons,
        panel=Panel.load(judges),
        references=References(**pictures),
        bank=Bank(root / "bank"),
        pictures=root / "pictures",
        bootstrap=BootstrapConfig(draws=100),
        at_once=4,
    )


@pytest.fixture(scope="module")
def outcome(shop):
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    pairs = [Pair("all+mid:0", "all"), Pair("all", "out3"), Pair("mid", "out3")]
    study = own_study("mine", pairs, shop.blocks, **specs)
    return run_study(shop, study, *brief((0, 1), "kissing", "weary"))


def test_a_study_adds_the_full_pair_and_ablates_what_varies_alone(outcome):
    assert outcome.trained[0] == Pair("all", "all") and len(outcome.trained) == 4
    assert outcome.ablated == (Pair("all+mid:0", "all"), Pair("all", "out3"))
    row = row_of(Pair("all", "out3"))
    assert outcome.scores[row]["identity"].n == 4
    assert outcome.effects[row]["identity"].mean == pytest.approx(
        outcome.scores[row]["identity"].mean
        - outcome.scores[row_of(Pair("all", "all"))]["identity"].mean
    )


def test_what_an_adapter_took_is_on_record(outcome, shop):
    small, large = (shop.entry("style", mask).cost for mask in ("out3", "all"))
    assert 0 < small.parameters < large.parameters
    assert small.file_bytes < large.file_bytes and small.seconds > 0
    assert 0 < small.memory_bytes < large.memory_bytes


def sheet_of(pair: Pair) -> str:
    return f"sheet of {pair}"


def test_every_trained_pair_has_a_record_of_what_varies_in_it(outcome, shop):
    records = {record.name: record for record in mask_records(shop, outcome, sheet_of)}
    assert list(records) == [
        "character: all; style: all",
        "character: all+mid:0",
        "style: out3",
        "character: mid; style: out3",
    ]
    assert len({record.key for record in records.values()}) == 4
    style = records["style: out3"]
    assert style.tags["mask.style"] == "out3" and style.tags["mask.character"] == "all"
    assert list(style.losses) == list(style.adapters) == ["style"]
    assert len(style.losses["style"]) == 6 and style.adapters["style"].is_dir()
    ranks = style.parameters["style"]["rank_of"]
    assert ranks["out3"] == 4 and not any(r for block, r in ranks.items() if block != "out3")
    assert style.parameters["style"]["cost"]["memory_bytes"] > 0
    row = row_of(Pair("all", "out3"))
    assert style.scores["identity"] == outcome.scores[row]["identity"].mean
    assert style.scores["effect.style"] == outcome.effects[row]["style"].mean
    assert style.sheet == "sheet of all / out3"


def search_of(shop, **budget) -> Search:
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    space = Space.of(BlockMap.of(shop.base.unet), specs)
    own = brief((10, 11), "winking", "angry")
    return Search(shop, space, open_study("s", None, 0), *own, Budget(**budget))


def test_a_search_ends_with_one_pair_confirmed_elsewhere(shop):
    search = search_of(shop, trainings=80.0, screening=0.1, finalists=2)
    found = search.run(*brief((0, 1), "kissing", "weary"))
    pairs = [guess.candidate.pair for guess in found.trained]
    assert len(pairs) == 2 and FULL_PAIR in pairs, "one was trained beside the full one"
    assert found.recommended == pairs[0]
    assert found.trained[0].scores.merit >= found.trained[1].scores.merit
    assert all(shop.entry(c, getattr(p, c)).trained for p in pairs for c in CONCEPTS)
    assert row_of(found.recommended) in found.confirmed.scores
    looked = {g.candidate for g in looked_at(search.study, search.space)}
    assert looked & set(skips(search.space).values()), "blocks were left out"
    assert looked & set(alone(search.space).values()), "and tried by themselves"
    assert len(found.screened) <= 1 + len(looked) // SEEN_AGAIN
    with pytest.raises(UserError, match=r"sweep\.prompts and prompts .* winking'\. .* leave each"):
        search.run(*brief((5, 6), "winking"))
    with pytest.raises(UserError, match=r"sweep\.search\.first_seed and seed .*: 11\. .* farther"):
        search.run(*brief((11,), "sleeping"))


def test_a_price_that_leaves_no_training_says_so(shop, caplog):
    found = search_of(shop, trainings=2.01).run(*brief((0, 1), "kissing", "weary"))
    assert found.recommended == FULL_PAIR
    assert "sweep.search.trainings" in caplog.text
