import numpy as np
import pytest
from PIL import Image

from blockwise_lora.judges.protocol import BootstrapConfig, Evaluation, summarise
from blockwise_lora.judges.samples import BASE, COPY, REAL, Row, Sample
from blockwise_lora.judges.scores import Judged, Scale

BLANK = Image.new("RGB", (8, 8), "white")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def evaluation() -> Evaluation:
    """Made-up scores: `blockwise` is ahead, one variant is called as badly as can be."""
    rng = np.random.default_rng(0)
    means = {Row(REAL): 0.9, Row(BASE): 0.2, Row(COPY): 0.4}
    means |= {Row("lora", c): m for c, m in {"character": 0.5, "style": 0.45, "both": 0.5}.items()}
    means |= {Row("blockwise", "both"): 0.8, Row(HOSTILE, "both"): 0.3}
    samples, values = [], []
    for row, mean in means.items():
        for p in range(4):
            for s in range(1 if row.anchor else 3):
                samples.append(Sample(row, p, s, BLANK))
                values.append(mean + rng.normal(0, 0.02))
    scores = {name: np.array(values) for name in ("combined", "identity", "style", "prompt")}
    scores["truth"] = np.where([s.row == Row(REAL) for s in samples], np.nan, values)
    scales = {name: Scale(0.2, 0.9) for name in ("identity", "style")}
    return summarise(Judged(tuple(samples), scores, scales), BootstrapConfig(draws=200))
