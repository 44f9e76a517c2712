"""Weights of models that others trained, under our names: TIGER in transformers, and the SID-MLP authors' students.

Sizes are inferred from shapes. Where semantic IDs were read from a file that counts the collision rank from 1 (see
`recbole_sid.semantic_ids.formats`), rows of codes move along with them: their last level has one code more than ours.

The students are those of "MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from recbole_sid.errors import InputError, first_line
from recbole_sid.nn.vocabulary import TokenVocabulary
from recbole_sid.util.reading import load_tensors

Weights = dict[str, torch.Tensor]

_T5, _DECODER, _ENCODER = "shared.weight", "cross_attn.q_proj.weight", "pos_embed.weight"
_PARTS = {
    _T5: ("shared.", "encoder.", "decoder.", "lm_head."),
    _DECODER: ("cross_attn.", "query_proj.", "norm1.", "norm2.", "ffn.", "head"),
    _ENCODER: ("pos_embed.", "layers.", "norm."),
}


@dataclass(frozen=True)
class TokenLayout:
    """Where a foreign token table has what: 0 pad, codes level by level, user tokens, end-of-sequence.

    Attributes:
        codebook_sizes: its codes per level.
        n_user_tokens: its user tokens.
        rank_from: what it counts the codes of the last level from; codes below are never used.
    """

    codebook_sizes: tuple[int, ...]
    n_user_tokens: int
    rank_from: int = 0

    @classmethod
    def of(
        cls,
        n_tokens: int,
        n_levels: int,
        codebook_sizes: Sequence[int] | None,
        n_user_tokens: int,
        rank_from: int,
    ) -> TokenLayout:
        """Infer the layout of a table with `n_tokens` rows: equal levels unless `codebook_sizes` says other.

        Raises:
            InputError: if the table cannot hold that.
        """
        if codebook_sizes is None:
            size, rest = divmod(n_tokens - 2 - n_user_tokens, n_levels)
            codebook_sizes = [size] * n_levels
        else:
            rest = n_tokens - 2 - n_user_tokens - sum(codebook_sizes)
        if rest or len(codebook_sizes) != n_levels or min(codebook_sizes) <= rank_from:
            raise InputError(
                f"A token table of {n_tokens} rows does not hold padding, {n_levels} levels of {list(codebook_sizes)} "
                f"codes, {n_user_tokens} user tokens and end-of-sequence: set codebook_sizes and n_user_tokens to the "
                "checkpoint's, and semantic_ids_path to its semantic IDs."
            )
        return cls(tuple(codebook_sizes), n_user_tokens, rank_from)

    @property
    def own_sizes(self) -> tuple[int, ...]:
        """Our codes per level: the last counts from 0."""
        return (*self.codebook_sizes[:-1], self.codebook_sizes[-1] - self.rank_from)

    def rows(self) -> torch.Tensor:
        """Return the row of each of our tokens in the foreign table: int64 [our vocabulary size]."""
        starts = list(accumulate(self.codebook_sizes, initial=1))
        kept = torch.ones(starts[-1] + self.n_user_tokens + 1, dtype=torch.bool)
        kept[starts[-2] : starts[-2] + self.rank_from] = False
        return kept.nonzero().squeeze(1)


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read the tensors of a ``.safetensors`` file, or of one that torch loads without pickle.

    Tensors in a dictionary within a dictionary (``{"model_state_dict": {...}, "epoch": 3}``) are found.

    Raises:
        InputError: if the file is missing or damaged, or holds no tensors by name.
    """
    if not os.path.isfile(path):
        raise InputError(f"There is no checkpoint at '{path}'.")
    try:
        content = _load(path)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"Reading '{path}' needs safetensors: pip install safetensors.") from error
    except Exception as error:  # a damaged file raises anything
        raise InputError(f"'{path}' is damaged, or needs pickle to load ({first_line(error)}).") from error
    for weights in (content, *(content.values() if isinstance(content, Mapping) else ())):
        if isinstance(weights, Mapping) and any(isinstance(value, torch.Tensor) for value in weights.values()):
            return {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    raise InputError(f"'{path}' holds no weights by name: give a state_dict.")


def _load(path: str | os.PathLike[str]) -> Any:
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return load_tensors(path)


def _part(weights: Weights, anchor: str, what: str) -> Weights:
    """Return the weights of the part that has `anchor`, without what stands before their names (as ``t5.``)."""
    prefixes = [name.removesuffix(anchor) for name in weights if name.endswith(anchor)]
    if not prefixes:
        raise InputError(f"The checkpoint has no weight '{anchor}': it holds no {what}.")
    prefix = min(prefixes, key=len)
    part = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    return {name: value.float() for name, value in part.items() if name.startswith(_PARTS[anchor])}


def t5_weights(weights: Weights) -> Weights:
    """Return the weights of the T5 in a checkpoint, under transformers' names.

    Raises:
        InputError: if there is none, or it is no T5 of TIGER's kind: tied output layer, ReLU feed-forward.
    """
    t5 = _part(weights, _T5, "T5 of transformers")
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        if not torch.equal(t5.get(tied, t5[_T5]), t5[_T5]):
            raise InputError(f"'{tied}' differs from '{_T5}': only a T5 with one tied table can be imported.")
    if any(".wi_0." in name for name in t5):
        raise InputError("The checkpoint's feed-forward layers are gated: only T5's ReLU layers can be imported.")
    return t5


def t5_settings(t5: Weights) -> dict[str, int]:
    """Return TIGER's sizes as configuration keys."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    n_buckets, n_heads = _shape(t5, f"{attention}.relative_attention_bias.weight")
    if n_buckets != 32:
        raise InputError(f"The checkpoint has {n_buckets} buckets of relative positions: only 32 can be imported.")
    inner, d_model = _shape(t5, f"{attention}.q.weight")
    return {
        "d_model": d_model,
        "d_ff": _shape(t5, "encoder.block.0.layer.1.DenseReluDense.wi.weight")[0],
        "n_heads": n_heads,
        "d_kv": inner // n_heads,
        "encoder_layers": _count(t5, r"encoder\.block\.(\d+)\."),
        "decoder_layers": _count(t5, r"decoder\.block\.(\d+)\."),
    }


def with_our_tokens(t5: Weights, layout: TokenLayout) -> Weights:
    """Return `t5` with the token table in our order."""
    tables = {name for name in t5 if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight"))}
    rows = layout.rows()
    return {name: value[rows] if name in tables else value for name, value in t5.items()}


def student_decoder(weights: Weights) -> Weights:
    """Return the weights of a SID-MLP decoder (cross_attn, query_proj, norm1, norm2, ffn, head1, head2, ...)."""
    return _part(weights, _DECODER, "SID-MLP decoder of its authors")


def student_encoder(weights: Weights) -> Weights:
    """Return the weights of a SID-MLP++ encoder (pos_embed, layers, norm)."""
    return _part(weights, _ENCODER, "SID-MLP++ encoder of its authors")


def decoder_settings(decoder: Weights) -> dict[str, int]:
    """Return the sizes of a SID-MLP decoder as configuration keys; the number of heads leaves no trace in shapes."""
    linear = [name for name in decoder if re.fullmatch(r"head1\.\d+\.weight", name) and decoder[name].dim() == 2]
    return {
        "attention_dim": _shape(decoder, _DECODER)[0],
        "ffn_size": _shape(decoder, "ffn.0.weight")[0],
        "head_hidden": _shape(decoder, "head1.0.weight")[0],
        "head_layers": len(linear) - 1,
    }


def encoder_settings(encoder: Weights) -> dict[str, int | str]:
    """Return the sizes of a SID-MLP++ encoder, and the paper's form of it, as configuration keys."""
    return {
        "encoder": "token",
        "encoder_layers": _count(encoder, r"layers\.(\d+)\."),
        "encoder_ffn_size": _shape(encoder, "layers.0.0.0.weight")[0],
        "max_positions": _shape(encoder, _ENCODER)[0],
        "encoder_positions": "start",
        "encoder_mixing": "mean",
    }


_DECODER_NAMES = (
    (r"query_proj\.", "decoder.readout.query."),
    (r"cross_attn\.([qkv])_proj\.", r"decoder.readout.\1_proj."),
    (r"cross_attn\.(out_proj|o_proj)\.", "decoder.readout.out_proj."),
    (r"(norm[12]|ffn)\.", r"decoder.readout.\1."),
)
_ENCODER_NAMES = (
    (r"pos_embed\.", "history_encoder.position."),
    (r"(layers|norm)\.", r"history_encoder.\1."),
)


def our_decoder(decoder: Weights, vocabulary: TokenVocabulary, rank_from: int) -> Weights:
    """Return a SID-MLP decoder under our names, the last head without the codes below `rank_from`.

    Raises:
        InputError: if a head has other codes than its level, or levels and heads do not match.
    """
    n_heads = _count(decoder, r"head(\d+)\.")
    if n_heads != vocabulary.n_levels:
        raise InputError(
            f"The checkpoint has {n_heads} level heads but the semantic IDs have {vocabulary.n_levels} levels."
        )
    renamed = _renamed({name: value for name, value in decoder.items() if name[:4] != "head"}, _DECODER_NAMES)
    for level, size in enumerate(vocabulary.codebook_sizes):
        unused = rank_from if level == n_heads - 1 else 0
        head = {
            name.partition(".")[2]: value for name, value in decoder.items() if name.startswith(f"head{level + 1}.")
        }
        last = max((int(name.partition(".")[0]) for name in head), default=0)
        for name, value in head.items():
            if name.startswith(f"{last}."):
                if len(value) != size + unused:
                    raise InputError(
                        f"Head {level + 1} of the checkpoint tells {len(value)} codes apart, the semantic IDs' level "
                        f"{level + 1} has {size + unused}: use the semantic IDs that it was trained with."
                    )
                value = value[unused:]
            renamed[f"decoder.heads.{level}.{name}"] = value
    return renamed


def our_encoder(encoder: Weights) -> Weights:
    """Return a SID-MLP++ encoder under our names.

    Raises:
        InputError: if its roles are no numbers.
    """
    for name in encoder:
        if name.startswith("layers.") and not re.match(r"layers\.\d+\.\d+\.", name):
            raise InputError(f"'{name}' names a role that is no number: roles 0, 1, ... are the levels' (layers.0.0).")
    return _renamed(encoder, _ENCODER_NAMES)


def _renamed(weights: Weights, names: Iterable[tuple[str, str]]) -> Weights:
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in names:
            if re.match(pattern, name):
                renamed[re.sub(f"^{pattern}", replacement, name)] = value
                break
        else:
            raise InputError(f"The checkpoint's weight '{name}' has no place in our model.")
    return renamed


def _shape(weights: Weights, name: str) -> tuple[int, ...]:
    if name not in weights:
        raise InputError(f"The checkpoint has no weight '{name}'.")
    return tuple(weights[name].shape)


def _count(weights: Weights, pattern: str) -> int:
    """Return how many different numbers `pattern` finds in the names."""
    return len({found[1] for name in weights if (found := re.match(pattern, name))})
