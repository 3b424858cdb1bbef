"""What the user decides about captions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from blockwise_lora.imagesets.captioning.captioner import Captioner
from blockwise_lora.imagesets.captioning.concept import ConceptTagRules
from blockwise_lora.imagesets.captioning.rule import CaptionRule
from blockwise_lora.imagesets.captioning.sources.beside import Beside
from blockwise_lora.imagesets.captioning.sources.file_name import FileName
from blockwise_lora.imagesets.captioning.sources.image_to_text import (
    ImageToText,
    ImageToTextConfig,
)
from blockwise_lora.imagesets.captioning.sources.onnx_tagger import OnnxTagger, OnnxTaggerConfig
from blockwise_lora.imagesets.captioning.sources.template import Template
from blockwise_lora.imagesets.captioning.sources.zero_shot import (
    ZeroShot,
    ZeroShotConfig,
    read_tags,
)
from blockwise_lora.imagesets.captioning.subject import CaptionSource, Encoder
from blockwise_lora.imagesets.captioning.tidy import TagRules
from blockwise_lora.imagesets.captioning.tokens import TextLimit

SourceName = Literal[
    "sidecar",
    "metadata",
    "file_name",
    "zero_shot",
    "image_to_text",
    "onnx_tagger",
    "template",
]


@dataclass(frozen=True)
class CaptioningConfig:
    """The parameter group `captioning`.

    Attributes:
        sources: where a picture's own caption is looked for, best first. `template` has one for
            every picture, so what stands behind it is never asked; without it, a picture that
            has no caption is dropped.
        template: of the source `template`; empty gives trigger and class word.
        zero_shot: the source `zero_shot`.
        image_to_text: the source `image_to_text`.
        onnx_tagger: the source `onnx_tagger`.
        tags: clean-up.
        concept_tags: what is done about tags that all pictures share.

    Raises:
        ValueError: no source, one that is there twice, or one that is never asked.
    """

    sources: tuple[SourceName, ...] = ("sidecar", "metadata", "template")
    template: str = ""
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    image_to_text: ImageToTextConfig = field(default_factory=ImageToTextConfig)
    onnx_tagger: OnnxTaggerConfig = field(default_factory=OnnxTaggerConfig)
    tags: TagRules = field(default_factory=TagRules)
    concept_tags: ConceptTagRules = field(default_factory=ConceptTagRules)

    def __post_init__(self) -> None:
        mistakes = [] if self.sources else ["sources: name at least one"]
        twice = sorted({name for name in self.sources if self.sources.count(name) > 1})
        mistakes += [f"sources: {name} is there twice" for name in twice]
        if "template" in self.sources[:-1]:
            mistakes.append("sources: template has a caption for every picture; put it last")
        try:
            Template(self.template)
        except ValueError as error:
            mistakes.append(str(error))
        if mistakes:
            raise ValueError("\n".join(mistakes))

    def captioner(
        self,
        rule: CaptionRule,
        *,
        encoder: Callable[[str], Encoder] | None = None,
        limit: TextLimit | None = None,
        device: str = "cpu",
    ) -> Captioner:
        """Load what the sources need.

        Args:
            rule: where the trigger goes.
            encoder: loads a model of pictures and texts from a folder or by a public name; only
                asked where `zero_shot` or the concept's tags need one.
            limit: of the text encoder.
            device: where models run.

        Raises:
            ImageSetError: a model or list of tags cannot be read.
        """
        judge = self.concept_tags.judge
        return Captioner(
            rule,
            tuple(self._source(name, rule, encoder, device) for name in self.sources),
            self.tags,
            self.concept_tags,
            judge=(lambda: encoder(judge)) if encoder and judge else None,
            limit=limit,
        )

    def _source(
        self,
        name: SourceName,
        rule: CaptionRule,
        encoder: Callable[[str], Encoder] | None,
        device: str,
    ) -> CaptionSource:
        if name == "file_name":
            return FileName()
        if name == "template":
            return Template(self.template, rule.class_word)
        if name == "zero_shot":
            groups = read_tags(self.zero_shot.tags)
            return ZeroShot(encoder(self.zero_shot.clip), groups, self.zero_shot)
        if name == "image_to_text":
            return ImageToText.load(self.image_to_text, device)
        if name == "onnx_tagger":
            return OnnxTagger.load(self.onnx_tagger)
        return Beside(name)
