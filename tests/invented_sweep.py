"""An invented sweep whose truth is known: mid carries identity, out3 style."""

import numpy as np
from PIL import Image

from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Row, Sample
from blockwise_lora.judges.scores import Judged, Scale
from blockwise_lora.sweep.effects import agreement, effects
from blockwise_lora.sweep.outcome import Outcome, _intervals, row_of
from blockwise_lora.sweep.studies import Pair, skip

FULL = Pair("all", "all")
LOSSES = {
    FULL: (0.6, 0.5),
    Pair(skip("mid"), "all"): (0.2, 0.6),
    Pair(skip("in0"), "all"): (0.6, 0.5),
    Pair("all", skip("out3")): (0.65, 0.1),
    Pair("mid", "out3"): (0.7, 0.6),
}


def invented() -> Outcome:
    rng = np.random.default_rng(0)
    samples, identity, style = [], [], []
    for n, (pair, (i, s)) in enumerate(LOSSES.items()):
        for prompt in (0, 1):
            for seed in (0, 1, 2):
                picture = Image.new("RGB", (64, 64), (40 * n, 80 * prompt, 60 * seed))
                samples.append(Sample(row_of(pair), prompt, seed, picture))
                noise = rng.normal(0, 0.01, 2)
                identity.append(i + noise[0])
                style.append(s + noise[1])
    values = {"identity": np.array(identity), "style": np.array(style)}
    values["prompt"] = values["identity"] * 0 + 0.3
    values["combined"] = np.minimum(values["identity"], values["style"])
    scales = {"identity": Scale(0.0, 1.0), "style": Scale(0.0, 1.0)}
    judged = Judged(tuple(samples), values, scales)
    rows = [Row(str(p), "both") for p in LOSSES]
    bootstrap = BootstrapConfig(draws=200)
    found = effects(judged, rows, row_of(FULL), bootstrap)
    scores = {row: _intervals(judged, row, bootstrap) for row in rows}
    nothing = (agreement("identity", {}, {}),)
    return Outcome(
        "paper", judged, tuple(LOSSES), (), scores, found, {"character": nothing, "style": nothing}
    )
