"""The checklist for artificial intelligence in medical imaging: what this evidence fills, and what it cannot.

CLAIM: Mongan, Moy & Kahn 2020, Radiology: Artificial Intelligence 2(2), doi 10.1148/ryai.2020200029. The items have
our own words. An item is `filled` only where the page itself holds what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.answers import Study

Status = Literal["filled", "partly", "not filled"]


@dataclass(frozen=True)
class Item:
    """One item of the checklist.

    Attributes:
        number: 1 to 42.
        asks: what for.
        status: whether the page answers it.
        text: the answer, or who would have to give it.
    """

    number: int
    asks: str
    status: Status
    text: str


def checklist(study: Study, evidence: Mapping[str, Any]) -> list[Item]:
    """All items, in their order.

    Args:
        study: what was compared.
        evidence: the page's JSON: `splits`, and `robustness`, `gradcam` where they were measured.
    """
    splits = evidence["splits"]
    tested, robust, looks = "test" in splits, evidence.get("robustness"), evidence.get("gradcam")
    sources = sorted({row.source for row in study.data})
    seeds = max((len(row.answers) for row in study.rows), default=1)
    partitions = ", ".join(
        f"{split} {sum(row.images for row in study.data if row.split == split)}"
        for split in dict.fromkeys(row.split for row in study.data)
    )
    authors = "The study's authors must write it; nothing here knows."
    clinic = "Needs records of the patients; the public image sets hold none."

    def known(condition: object, filled: str, missing: str) -> tuple[Status, str]:
        return ("filled", filled) if condition else ("not filled", missing)

    told: list[tuple[str, Status, str]] = [
        ("names the kind of method in title or abstract", "filled",
         "Deep learning: convolutional networks, knowledge distillation, static INT8 quantisation."),
        ("structured summary", "partly", "The page's first section: what was compared, on what, with what result."),
        ("background, intended use, role in the clinic", "partly",
         "Research only: hints on a phone beside the scope's own picture. The background is the authors' part."),
        ("aims and hypotheses", "partly", study.about or "The recipe's own description is all that is known."),
        ("prospective or retrospective", "filled", "Retrospective: images that existed before."),
        ("goal of the study", "filled", "Creation and comparison of models; no trial."),
        ("sources of the data", *known(sources, ", ".join(sources) + ".", "The study lists no sources.")),
        ("who and what was eligible", "not filled", "The image sets' publications say so, as far as it is known."),
        ("preprocessing", "filled",
         "As on the device: aperture found, cropped, scaled with padding to the model's input, (x - 127) / 128."),
        ("choice of subsets", "partly", "By the recipe's rules; the manifest holds what was left in."),
        ("definitions of the data's elements", "partly", f"Labels: {', '.join(study.labels)}; defined in the recipe."),
        ("how the data were made anonymous", "not filled", "By those who published the image sets."),
        ("missing data", "filled", "An image that cannot be read, or a label that is unknown, bars the run."),
        ("the reference standard", "partly", "The image sets' own labels and masks; no second reading was made."),
        ("why that standard", "not filled", authors),
        ("who annotated", "not filled", "As the image sets' publications say."),
        ("tools of annotation", "not filled", "As the image sets' publications say."),
        ("agreement between raters", "not filled", "Needs several readers of the same images."),
        ("sample size and its reason", "partly", "All images that there were; none was planned."),
        ("how images were dealt out", *known(study.data, f"By group: {partitions}.", "The study does not say.")),
        ("level at which partitions are apart", "filled",
         "Groups (patient or recording, as far as the sets name them); a run in which splits share one is refused."),
        ("the model in full", "partly", "Parameters and multiply-adds here; layers in source and graph."),
        ("software", "filled", "Foldsight, PyTorch, timm, ONNX Runtime; versions are pinned in the distribution."),
        ("how weights begin", "partly", "Teachers from ImageNet weights where the recipe says so, students at random."),
        ("training in full", *known(study.recipe_sha256, f"The recipe, hash {study.recipe_sha256[:12]}; {seeds} seed"
                                    f"{'s' if seeds > 1 else ''}.", "The study names no recipe.")),
        ("choice of the final model", "filled", "Best epoch by the validation split's mean over sources."),
        ("ensembles", "partly", "Those rows that say so; the others are single networks."),
        ("measures of performance", "filled", "Accuracy, recall, precision, areas, calibration error, risk."),
        ("uncertainty and significance", "filled",
         "95 % intervals that resample groups; paired tests, corrected by Holm; a gain inside its interval is none."),
        ("robustness", *known(robust, "Eight corruptions at five strengths.", "Was not measured for this page.")),
        ("explanation of answers, and whether it holds", *known(
            looks, "Grad-CAM, counted against masks.", "Was not measured for this page.")),
        ("external data", "not filled", "Sources that took no part in training need a run that leaves them out."),
        ("flow of cases", "partly", "Images and groups by split, source and label; those left out only as counts."),
        ("demography and disease of the cases", "not filled", clinic),
        ("performance on all partitions", "partly" if not tested else "filled",
         "Validation" + (" and test" if tested else "; no answers to the test split are kept")
         + "; training images are not measured."),
        ("accuracy with its precision", "filled", "All figures carry intervals where there are two groups or more."),
        ("analysis of failures", "partly", "By source and group, with maps of wrong answers; no clinician looked."),
        ("limits", "filled", "The page's remarks, and the model card's."),
        ("what it means for practice", "not filled", "Nothing for practice follows from this page: research software."),
        ("registration", "not filled", "None."),
        ("where the protocol is", "partly", "The recipe and this page; no protocol was registered."),
        ("funding", "not filled", authors),
    ]  # fmt: skip
    return [Item(number, *parts) for number, parts in enumerate(told, start=1)]
