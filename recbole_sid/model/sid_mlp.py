"""SID-MLP: the teacher's frozen encoder, one attention readout and one MLP head per level.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from logging import getLogger
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.config import Config
from recbole_sid.decoding import DECODERS
from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.errors import InputError, nearest, require_known
from recbole_sid.fast.captured import CapturedSearches
from recbole_sid.fast.compiled_scorer import (
    COMPILED,
    CompiledScorer,
    can_compile,
    compiled_heads,
    compiled_prefixes,
    is_usable,
)
from recbole_sid.fast.factorised import FactorisedHeads, FactorisedScorer
from recbole_sid.fast.prepared import Prepared
from recbole_sid.model.base import SIDRecommender, is_cpu_inference
from recbole_sid.model.supervision import Supervision
from recbole_sid.model.teacher import build_teacher, freeze, load_teacher, teacher_config
from recbole_sid.nn.packing import Packed, Padded
from recbole_sid.nn.readout import SIDMLPDecoder
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.settings import declare
from recbole_sid.settings.training import StudentSettings
from recbole_sid.util import hardware
from recbole_sid.util.hardware import cpu_has_fast_bfloat16

# Users whose beams are searched together on the CPU: more, and activations leave the cache.
_USERS_IN_CACHE = 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SIDMLPSettings(StudentSettings):
    """SID-MLP: arXiv 2605.12617."""

    distill_stages: Any = declare(["decoder"], "The stages to train: there is one.")


class SIDMLP(SIDRecommender):
    """Student with the teacher's encoder and token table, both frozen and part of its own checkpoint.

    Configuration: teacher_path (a teacher's checkpoint) or teacher_model and teacher_config; attention_heads,
    attention_dim, query_per_level, query_from_last, ffn_size, head_hidden, head_layers, dropout_prob; alpha,
    temperature; beam_size.

    Attributes:
        teacher: the frozen teacher, or None when loaded for inference; not part of the checkpoint.
        stages: the training stages that this model has.
        supervision: gives states and teacher logits of a training batch; set by the distillation trainer.
    """

    settings: ClassVar[type[StudentSettings]] = SIDMLPSettings

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        if not config["teacher_path"]:
            teacher_config(config)
        if not 0 <= config["alpha"] <= 1:
            raise InputError(f"alpha={config['alpha']} must be in 0..1.")
        if config["temperature"] <= 0:
            raise InputError(f"temperature={config['temperature']} must be above 0.")
        if config["attention_dim"] % config["attention_heads"]:
            raise InputError(
                f"attention_dim={config['attention_dim']} must be a multiple of attention_heads="
                f"{config['attention_heads']}."
            )
        require_known("encoder_dtype", config["encoder_dtype"], DTYPES)
        cls.chosen_stages(config)
        given = config["teacher_config"] or {}
        known = Config(config["teacher_model"], config["dataset"]).known_keys(given)
        for key in given:
            if key not in known:
                raise InputError(f"teacher_config has the unknown key '{key}'{nearest(key, known)}.")

    @classmethod
    def stages_of(cls, config: Any) -> tuple[str, ...]:
        """Return the training stages that the configured model has."""
        return ("decoder",)

    @classmethod
    def chosen_stages(cls, config: Any) -> tuple[str, ...]:
        """Return the stages of ``distill_stages``, or else all but ``joint``.

        Raises:
            InputError: for a stage that the model does not have, or one that would start from an untrained encoder.
        """
        known, chosen = cls.stages_of(config), config["distill_stages"]
        if chosen is not None and not chosen:
            raise InputError(f"distill_stages={chosen!r} trains nothing: leave it empty (~), or name stages.")
        names = chosen or [name for name in known if name != "joint"]
        names = tuple(names) if isinstance(names, (list, tuple)) else (names,)
        if any(name not in known for name in names):
            raise InputError(
                f"distill_stages={list(names)} is not possible for {config['model']}: choose from {', '.join(known)}."
            )
        if "encoder" in known and names[0] != "encoder" and not config["student_path"]:
            raise InputError(
                f"distill_stages={list(names)} would start from an untrained encoder: begin with 'encoder', or name "
                "the checkpoint of that stage in student_path."
            )
        return names

    @property
    def form_keys(self) -> tuple[str, ...]:
        """The configuration keys that decide what weights mean and that their shapes do not show."""
        return ("attention_heads",)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        teacher = load_teacher(config, dataset) if config["teacher_path"] else build_teacher(config, dataset)
        # Neither registered as a submodule: they are no part of the student.
        object.__setattr__(self, "teacher", teacher if config["teacher_path"] else None)
        self.supervision: Callable[[Any], Supervision] | None = None
        self.alpha, self.temperature = config["alpha"], config["temperature"]
        token_embedding, encoder = teacher.token_embedding, teacher.history_encoder
        if self.teacher is not None:  # own copies (of both at once: they share weights), so that the teacher stays
            token_embedding, encoder = copy.deepcopy((token_embedding, encoder))
        self.token_embedding: nn.Embedding = freeze(token_embedding)
        self.history_encoder: Any = self.make_encoder(config, encoder)
        self.decoder = SIDMLPDecoder(
            teacher.d_model,
            self.vocabulary.codebook_sizes,
            attention_dim=config["attention_dim"],
            n_heads=config["attention_heads"],
            ffn_size=config["ffn_size"],
            head_hidden=config["head_hidden"],
            head_layers=config["head_layers"],
            dropout=config["dropout_prob"],
            query_per_level=config["query_per_level"],
            query_from_last=config["query_from_last"],
        )
        _compute_in(self.history_encoder, DTYPES[config["encoder_dtype"]], config["device"])
        self.compiled = config["compiled"]
        if self.compiled and hardware.on_cpu(config["device"]):
            is_usable()  # compiles now, before anything is timed
        self.heads_form = Prepared(_factorise)
        self.compiled_form = Prepared(_compile)
        self.graphs: Prepared[CapturedSearches] = Prepared(_no_graphs)
        self.stages = self.stages_of(config)
        self.start_stage(self.stages[-1])

    def make_encoder(self, config: Any, teachers: nn.Module) -> nn.Module:
        """Return the encoder of histories: here the teacher's, a copy of which is given."""
        return freeze(teachers)

    @property
    def states_encoder(self) -> nn.Module:
        """The frozen encoder whose states stage ``decoder`` learns from; here the teacher's own, which runs anyway."""
        return self.teacher.history_encoder

    def start_stage(self, stage: str) -> None:
        """Freeze all but what `stage` trains; `calculate_loss` is that stage's loss from now on."""
        self.stage = stage
        self.requires_grad_(False)
        for module in self.trained_in(stage):
            module.requires_grad_(True)
        self.token_embedding.requires_grad_(False)

    def trained_in(self, stage: str) -> Sequence[nn.Module]:
        """Return the modules that `stage` trains."""
        return [self.decoder]

    def train(self, mode: bool = True) -> SIDMLP:
        """Switch only what is being trained: frozen modules stay in eval mode, without dropout."""
        super().train(mode)  # all of them: forms are made anew after training
        trained = self.trained_in(self.stage)
        for module in self.children():
            if not isinstance(module, Prepared):
                module.train(mode and module in trained)
        self.token_embedding.train(False)
        return self

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the distillation loss of the batch."""
        return self.distillation_loss(interaction, self.supervise(interaction))

    def supervise(self, interaction: Any) -> Supervision:
        """Return the frozen states and teacher logits of a training batch."""
        if self.supervision is None:
            raise InputError(f"{type(self).__name__} learns from a teacher: set teacher_path and use its trainer.")
        return self.supervision(interaction)

    def distillation_loss(self, interaction: Any, given: Supervision) -> torch.Tensor:
        """Return ``alpha T^2 KL(teacher || student) + (1 - alpha) CE``, summed over levels, from `given` states."""
        codes = self.target_codes(interaction)
        logits = self.decoder(self.decoder.readout(given.states, given.mask), self.embed_prefix(codes))
        loss = logits[0].new_zeros(())
        for level, (student, teacher) in enumerate(zip(logits, given.logits, strict=True)):
            divergence = F.kl_div(
                (student.float() / self.temperature).log_softmax(-1),
                (teacher.float() / self.temperature).log_softmax(-1),
                reduction="batchmean",
                log_target=True,
            )
            cross_entropy = F.cross_entropy(student.float(), codes[:, level])
            loss = loss + self.alpha * self.temperature**2 * divergence + (1 - self.alpha) * cross_entropy
        return loss

    def embed_prefix(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the embedded codes of all levels but the last: [B, L - 1, d]."""
        return self.token_embedding(self.vocabulary.code_tokens(codes[:, :-1]))

    def encode(self, tokens: torch.Tensor) -> Packed | Padded:
        """Return the encoder's states: for inference on the CPU without padding, where the encoder offers it."""
        mask = tokens != PAD
        if is_cpu_inference(tokens) and hasattr(self.history_encoder, "packed"):
            return self.history_encoder.packed(tokens, mask)
        return self.encode_padded(tokens, mask)

    def encode_padded(self, tokens: torch.Tensor, mask: torch.Tensor) -> Padded:
        """Return states with padding, for training and where shapes must not depend on the data."""
        dtype = getattr(self.history_encoder, "inference_dtype", torch.float32)
        low = dtype != torch.float32 and not torch.is_grad_enabled()
        # Without autocast's cache: casts made inside a captured graph must not be used outside of it.
        with torch.autocast(tokens.device.type, dtype, cache_enabled=False) if low else nullcontext():
            states = self.history_encoder(tokens, mask)
        return Padded(states.float() if low else states, state_mask(self.history_encoder, tokens, mask))

    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        context = self.decoder.readout(*self.encode_padded(tokens, tokens != PAD))
        return self.decoder(context, self.embed_prefix(codes))

    def context(self, encoded: Packed | Padded) -> torch.Tensor:
        """Return the user contexts z [B, Q, d] (see `Readout`)."""
        readout = self.decoder.readout
        return readout.packed(encoded) if isinstance(encoded, Packed) else readout(*encoded)

    def scorer(self, encoded: Packed | Padded) -> LevelScorer:
        context = self.context(encoded)
        heads = self.heads_form.get(self)
        user_parts = heads.user_parts(context)
        if self._runs_compiled(heads, context):
            return CompiledScorer(heads, user_parts, self.trie, *self.compiled_form.get(self))
        return FactorisedScorer(heads, user_parts)

    def rank(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves and log-probabilities [B, K]; beam search on CUDA runs as one captured graph."""
        static = getattr(self.history_encoder, "static_shapes", False) and DECODERS[self.decoding] is beam_search
        if not (tokens.is_cuda and self.compiled and static):
            return self.rank_eagerly(tokens)
        dtype = getattr(self.history_encoder, "inference_dtype", torch.float32)
        return self.graphs.get(self).rank(self, tokens, (self.beam_size, self.normaliser, dtype))

    def rank_eagerly(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `rank` does, operation by operation."""
        return super().rank(tokens)

    def _runs_compiled(self, heads: FactorisedHeads, context: torch.Tensor) -> bool:
        on_cpu = self.compiled and hardware.on_cpu(context)  # asked first: numba compiles for seconds
        return on_cpu and self.normaliser == "children" and can_compile(heads) and is_usable()

    def search(self, scorer: LevelScorer) -> tuple[torch.Tensor, torch.Tensor]:
        compiled = COMPILED.get(DECODERS[self.decoding])
        if compiled and isinstance(scorer, CompiledScorer):
            return scorer.search(compiled, self.beam_size)
        if not hardware.on_cpu(scorer.device) or not isinstance(scorer, FactorisedScorer):
            return super().search(scorer)
        return join_rankings([super(SIDMLP, self).search(part) for part in scorer.split(_USERS_IN_CACHE)])

    def leaf_log_probs(self, scorer: LevelScorer) -> torch.Tensor:
        if isinstance(scorer, CompiledScorer):
            return scorer.leaf_log_probs()
        return super().leaf_log_probs(scorer)

    def groups(self, lengths: torch.Tensor) -> list[torch.Tensor | None]:
        return [None] if hasattr(self.history_encoder, "packed") else super().groups(lengths)


def _factorise(model: SIDMLP) -> FactorisedHeads:
    return FactorisedHeads.of(model.decoder, model.token_embedding.weight, model.vocabulary.level_offsets)


def _no_graphs(model: SIDMLP) -> CapturedSearches:
    return CapturedSearches()


def _compile(model: SIDMLP) -> tuple[Any, Any]:
    return compiled_heads(model.heads_form.get(model)), compiled_prefixes(model.trie)


def join_rankings(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Join leaves and scores [b, K] of parts of a batch, whose K may differ."""
    width = max(leaves.shape[1] for leaves, _ in parts)
    leaves = [F.pad(leaves, (0, width - leaves.shape[1]), value=-1) for leaves, _ in parts]
    scores = [F.pad(scores, (0, width - scores.shape[1]), value=-torch.inf) for _, scores in parts]
    return torch.cat(leaves), torch.cat(scores)


def _compute_in(encoder: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Let the encoder's inference use products of `dtype`.

    Raises:
        InputError: if the encoder has no such choice.
    """
    if dtype == torch.float32:
        return
    if not hasattr(encoder, "inference_dtype"):
        raise InputError(f"{type(encoder).__name__} computes in float32 only: leave out encoder_dtype.")
    if hardware.on_cpu(device) and not cpu_has_fast_bfloat16():
        getLogger().warning("encoder_dtype: this processor only emulates bf16 and will be slower with it.")
    encoder.inference_dtype = dtype


def state_mask(encoder: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return which states of `encoder` are no padding, bool [B, S]: those of tokens, unless the encoder says other."""
    return encoder.state_mask(tokens) if hasattr(encoder, "state_mask") else mask
