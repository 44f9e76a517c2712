"""SID-MLP: the teacher's frozen encoder, one attention readout and one MLP head per level.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617. How it learns is in `model.student`; how it
ranks in `model.mlp_ranking`; here is what it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from recbole_sid.model.mlp_ranking import MLPRanking
from recbole_sid.model.student import Student
from recbole_sid.nn.readout import SIDMLPDecoder
from recbole_sid.settings import declare
from recbole_sid.settings.training import StudentSettings


@dataclass(frozen=True)
class SIDMLPSettings(StudentSettings):
    """SID-MLP: arXiv 2605.12617."""

    distill_stages: Any = declare(["decoder"], "The stages to train: there is one.")


class SIDMLP(MLPRanking, Student):
    """Student with the teacher's encoder and token table, both frozen and part of its own checkpoint.

    Configuration: `Student`'s, and attention_heads, attention_dim, query_per_level, query_from_last, ffn_size,
    head_hidden, head_layers, dropout_prob; beam_size, compiled.
    """

    settings: ClassVar[type[StudentSettings]] = SIDMLPSettings

    decoder: SIDMLPDecoder

    @property
    def form_keys(self) -> tuple[str, ...]:
        """As `Student.form_keys`."""
        return ("attention_heads",)

    def make_decoder(self, config: Any, d_model: int) -> SIDMLPDecoder:
        settings = StudentSettings.of(config)
        return self.made_decoder(settings, d_model, self.vocabulary.codebook_sizes, settings.query_per_level)
