"""The rows of the benchmark. To add one, write a function from a model to a `Task` and a line in `ROWS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from recbole_sid.bench.data import Workload
from recbole_sid.bench.plain import PlainDecoder, plain_mlp_encoder, plain_readout
from recbole_sid.bench.serving_rows import serving_problem, serving_task
from recbole_sid.bench.timing import Task
from recbole_sid.fast.compiled_scorer import is_usable
from recbole_sid.nn.t5 import to_transformers
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.util.hardware import cpu_has_fast_bfloat16

# Every `Task.whole` here returns what `SIDRecommender.retrieve` does.
Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Unavailable(Exception):
    """A row cannot be measured here; the message is a sentence that says why."""


class Row(NamedTuple):
    """One row.

    Attributes:
        kind: of the model it measures (`recbole_sid.bench.data.KINDS`).
        start: ``(workload, beam size) -> Task``; raises `Unavailable`.
        needs: ``(workload, batch, beam size) -> bytes`` that it takes at least, where that can be much.
        reference: the row whose items it should return.
    """

    kind: str
    start: Callable[[Workload, int], Task]
    needs: Callable[[Workload, Any, int], int] = lambda workload, batch, beam_size: 0
    reference: str = ""


def sid_task(model: Any) -> Task:
    """Return the task of a model of ours without memory; its stages work through the groups that `retrieve` forms."""
    _forgetting(model)

    def encode(batch: Any) -> list[Any]:
        return [model.encode(model.history_tokens(part)) for _, part in model.ranked_together(batch)]

    def readout(encoded: list[Any]) -> list[Any]:
        return [model.scorer(part) for part in encoded]

    def decode(scorers: list[Any]) -> list[Found]:
        return [_items(model, *model.search(scorer)) for scorer in scorers]

    return Task(model.retrieve, {"encode": encode, "readout": readout, "decode": decode})


def tiger(workload: Workload, beam_size: int) -> Task:
    """Ours: cross-attention keys and values once per user; all code combinations are searched."""
    return sid_task(workload.model("TIGER", constrained=False, decoding="beam"))


def tiger_constrained(workload: Workload, beam_size: int) -> Task:
    """Ours, over valid semantic IDs: the strong teacher."""
    return sid_task(workload.model("TIGER", constrained=True, decoding="beam"))


def transformers_generate(workload: Workload, beam_size: int) -> Task:
    """Transformers' beam search with the weights of our TIGER."""
    model = workload.model("TIGER", constrained=False)
    t5 = transformers_t5(model).to(workload.device)
    vocabulary = model.vocabulary
    sizes = torch.tensor(vocabulary.codebook_sizes, device=workload.device)
    offsets = torch.tensor(vocabulary.level_offsets, device=workload.device)

    def encode(batch: Any) -> Any:
        tokens = model.history_tokens(batch)
        return t5.encoder(input_ids=tokens, attention_mask=(tokens != PAD).long())

    def generate(batch: Any) -> Found:
        tokens = model.history_tokens(batch)
        found = t5.generate(
            input_ids=tokens,
            attention_mask=(tokens != PAD).long(),
            num_beams=beam_size,
            num_return_sequences=beam_size,
            max_new_tokens=vocabulary.n_levels,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            length_penalty=0.0,
        )
        written = found.sequences[:, 1:]
        codes = torch.full((len(written), vocabulary.n_levels), PAD, device=written.device)
        codes[:, : written.shape[1]] = written
        codes = codes - offsets
        valid = ((codes >= 0) & (codes < sizes)).all(1)
        leaves = torch.where(valid, model.trie.find(torch.where(valid.unsqueeze(1), codes, 0)), -1)
        return _items(model, leaves.view(-1, beam_size), found.sequences_scores.view(-1, beam_size))

    return Task(generate, {"encode": encode})


def sidmlp_plain(workload: Workload, beam_size: int) -> Task:
    """The paper's decoding as its description says it, on transformers' encoder where that is installed."""
    model = workload.model("SIDMLP")
    return _plain_task(model, _padded_encoder(model.history_encoder))


def sidmlppp_plain(workload: Workload, beam_size: int) -> Task:
    """The paper's decoding and MLP encoder: all role MLPs on all tokens."""
    model = workload.model("SIDMLPPlusPlus")
    encoder = model.history_encoder
    return _plain_task(model, lambda tokens, mask: plain_mlp_encoder(encoder, tokens, mask))


def sidmlp(workload: Workload, beam_size: int) -> Task:
    """Ours in torch alone."""
    return sid_task(workload.model("SIDMLP", compiled=False, captured=False, decoding="beam"))


def sidmlp_fast(workload: Workload, beam_size: int) -> Task:
    """Ours with compiled kernels."""
    return sid_task(workload.model("SIDMLP", compiled=_compiled(workload), decoding="beam"))


def sidmlp_bf16(workload: Workload, beam_size: int) -> Task:
    """Ours with compiled kernels and products of the encoder in bf16."""
    return sid_task(_in_bf16(workload.model("SIDMLP", compiled=_compiled(workload), decoding="beam"), workload.device))


def sidmlppp(workload: Workload, beam_size: int) -> Task:
    """SID-MLP++ over tokens, routed by role."""
    return sid_task(workload.model("SIDMLPPlusPlus", decoding="beam"))


def sidmlppp_item(workload: Workload, beam_size: int) -> Task:
    """SID-MLP++ over items."""
    return sid_task(workload.model("SIDMLPPlusPlus-item", decoding="beam"))


def sidmlp_memory(workload: Workload, beam_size: int) -> Task:
    """`sidmlp_fast` with a memory of transitions."""
    return _with_memory(workload, workload.model("SIDMLP", compiled=_compiled(workload), decoding="beam"))


def sidmlppp_item_memory(workload: Workload, beam_size: int) -> Task:
    """`sidmlppp_item` with a memory of transitions."""
    return _with_memory(workload, workload.model("SIDMLPPlusPlus-item", decoding="beam"))


def hybrid(workload: Workload, beam_size: int) -> Task:
    """Level heads and a head over items."""
    return Task(_forgetting(workload.model("SIDMLPHybrid", decoding="beam")).retrieve, {})


def hybrid_memory(workload: Workload, beam_size: int) -> Task:
    """`hybrid` with a memory of transitions."""
    return _with_memory(workload, workload.model("SIDMLPHybrid", decoding="beam"))


def hybrid_index(workload: Workload, beam_size: int) -> Task:
    """`hybrid`, whose head over items ranks those under the best prefixes of two codes: as many as the beam is wide."""
    model = workload.model("SIDMLPHybrid", decoding="beam", item_candidates=beam_size)
    return Task(_forgetting(model).retrieve, {})


def hybrid_index_memory(workload: Workload, beam_size: int) -> Task:
    """`hybrid_index` with a memory of transitions."""
    return _with_memory(workload, workload.model("SIDMLPHybrid", decoding="beam", item_candidates=beam_size))


def transitions(workload: Workload, beam_size: int) -> Task:
    """A memory of transitions and popularity."""
    model = workload.model("TransitionMemory")
    if not len(model.memory.counts):
        model.memory = workload.memory[0]
        model.base.learn(torch.bincount(model.memory.successors.long(), minlength=model.n_items))
    return Task(model.retrieve, {})


def serving(workload: Workload, beam_size: int, kind: str, with_memory: bool) -> Task:
    """The engine that a bundle of the model has: compiled loops from item numbers to a list of 20."""
    problem = serving_problem(workload.device)
    if problem:
        raise Unavailable(problem)
    return serving_task(workload, kind, with_memory)


def exact(workload: Workload, beam_size: int) -> Task:
    """The true top-k, with compiled kernels."""
    return sid_task(workload.model("SIDMLP", compiled=_compiled(workload), decoding="exact"))


def exact_torch(workload: Workload, beam_size: int) -> Task:
    """The true top-k, in torch alone."""
    return sid_task(workload.model("SIDMLP", compiled=False, decoding="exact"))


def full(workload: Workload, beam_size: int) -> Task:
    """The log-probability of every item, with compiled kernels, then the top-k."""
    return _full_task(workload.model("SIDMLP", compiled=_compiled(workload)), beam_size)


def full_torch(workload: Workload, beam_size: int) -> Task:
    """The log-probability of every item, in torch alone, then the top-k."""
    return _full_task(workload.model("SIDMLP", compiled=False), beam_size)


def sasrec(workload: Workload, beam_size: int) -> Task:
    """RecBole's SASRec: dot products with all items, then the top-k."""
    model = workload.model("SASRec")

    def encode(batch: Any) -> torch.Tensor:
        return model(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])

    def decode(states: torch.Tensor) -> Found:
        return _best(states @ model.item_embedding.weight.T, beam_size)

    return Task(lambda batch: decode(encode(batch)), {"encode": encode, "decode": decode})


def _serving(kind: str, with_memory: bool) -> Callable[[Workload, int], Task]:
    return partial(serving, kind=kind, with_memory=with_memory)


def copied_cache(workload: Workload, batch: Any, beam_size: int) -> int:
    """Bytes that transformers takes: cross-attention keys and values of every layer, copied for every beam."""
    model = workload.model("TIGER")
    n_users, n_tokens = model.history_tokens(batch).shape
    inner = model.encoder.blocks[0].attention.q.out_features
    floats = n_users * beam_size * n_tokens * 2 * inner * len(model.decoder.blocks)
    return 5 * floats  # of 4 bytes, and a quarter more for one layer's copy while beams are reordered


def score_matrix(workload: Workload, batch: Any, beam_size: int) -> int:
    """Bytes of scores of all items for all users, held twice."""
    return 2 * 4 * len(batch) * workload.n_items


ROWS: dict[str, Row] = {
    "transformers": Row("TIGER", transformers_generate, copied_cache),
    "tiger": Row("TIGER", tiger),
    "tiger-constrained": Row("TIGER", tiger_constrained),
    "sidmlp-plain": Row("SIDMLP", sidmlp_plain),
    "sidmlp": Row("SIDMLP", sidmlp, reference="sidmlp-plain"),
    "sidmlp-fast": Row("SIDMLP", sidmlp_fast, reference="sidmlp-plain"),
    "sidmlp-bf16": Row("SIDMLP", sidmlp_bf16, reference="sidmlp-plain"),
    "exact": Row("SIDMLP", exact, reference="sidmlp-plain"),
    "exact-torch": Row("SIDMLP", exact_torch, reference="sidmlp-plain"),
    "full": Row("SIDMLP", full, score_matrix, reference="sidmlp-plain"),
    "full-torch": Row("SIDMLP", full_torch, score_matrix, reference="sidmlp-plain"),
    "sidmlppp-plain": Row("SIDMLPPlusPlus", sidmlppp_plain),
    "sidmlppp": Row("SIDMLPPlusPlus", sidmlppp, reference="sidmlppp-plain"),
    "sidmlppp-item": Row("SIDMLPPlusPlus-item", sidmlppp_item),
    "sidmlp-memory": Row("SIDMLP", sidmlp_memory),
    "sidmlppp-item-memory": Row("SIDMLPPlusPlus-item", sidmlppp_item_memory),
    "hybrid": Row("SIDMLPHybrid", hybrid, score_matrix),
    "hybrid-memory": Row("SIDMLPHybrid", hybrid_memory, score_matrix),
    "hybrid-index": Row("SIDMLPHybrid", hybrid_index),
    "hybrid-index-memory": Row("SIDMLPHybrid", hybrid_index_memory),
    "serve-item": Row("SIDMLPPlusPlus-item", _serving("SIDMLPPlusPlus-item", False), reference="sidmlppp-item"),
    "serve-item-memory": Row(
        "SIDMLPPlusPlus-item", _serving("SIDMLPPlusPlus-item", True), reference="sidmlppp-item-memory"
    ),
    "serve-hybrid-memory": Row("SIDMLPHybrid", _serving("SIDMLPHybrid", True), score_matrix, reference="hybrid-memory"),
    "serve-sidmlp": Row("SIDMLP", _serving("SIDMLP", False), reference="sidmlp-fast"),
    "transitions": Row("TransitionMemory", transitions),
    "sasrec": Row("SASRec", sasrec, score_matrix),
}


def transformers_t5(model: Any) -> Any:
    """Return transformers' T5 with the weights of our TIGER `model`, in eval mode.

    Raises:
        Unavailable: if transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise Unavailable("transformers is not installed: pip install transformers.")
    from transformers import T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration(_t5_config(model.encoder, model.vocabulary.eos, len(model.decoder.blocks)))
    t5.load_state_dict(model.transformers_state_dict())
    return t5.eval()


def _t5_config(encoder: Any, eos: int, decoder_layers: int) -> Any:
    from transformers import T5Config

    block = encoder.blocks[0]
    bias = encoder.relative_bias
    sizes: dict[str, Any] = dict(
        vocab_size=encoder.embedding.num_embeddings,
        d_model=encoder.embedding.embedding_dim,
        d_kv=block.attention.q.out_features // block.attention.n_heads,
        d_ff=block.feed_forward.wi.out_features,
        num_layers=len(encoder.blocks),
        num_decoder_layers=decoder_layers,
        num_heads=block.attention.n_heads,
        relative_attention_num_buckets=bias.embedding.num_embeddings,
        relative_attention_max_distance=bias.max_distance,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=eos,
    )
    return T5Config(**sizes)


def _padded_encoder(encoder: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return tokens, mask -> states [B, S, d] by transformers' encoder with our weights, or ours on the rectangle."""
    if find_spec("transformers") is None:
        return lambda tokens, mask: encoder(tokens, mask)
    from transformers import T5EncoderModel

    t5 = T5EncoderModel(_t5_config(encoder, eos=1, decoder_layers=1)).to(encoder.embedding.weight.device)
    state = to_transformers({f"encoder.{name}": value for name, value in encoder.state_dict().items()})
    t5.load_state_dict({name: value for name, value in state.items() if not name.startswith(("decoder.", "lm_head."))})
    t5.eval()
    return lambda tokens, mask: t5(input_ids=tokens, attention_mask=mask.long()).last_hidden_state


def _plain_task(model: Any, encoder: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Task:
    readout = model.decoder.readout
    if readout.n_queries > 1 or readout.reads_last:
        raise Unavailable("the paper's readout has one query, from the mean state.")
    decoder = PlainDecoder(model)

    def encode(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = model.history_tokens(batch)
        mask = tokens != PAD
        return encoder(tokens, mask), mask

    def read(encoded: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return plain_readout(readout, *encoded)

    def decode(context: torch.Tensor) -> Found:
        return _items(model, *decoder.search(context))

    return Task(lambda batch: decode(read(encode(batch))), {"encode": encode, "readout": read, "decode": decode})


def _full_task(model: Any, beam_size: int) -> Task:
    def encode(batch: Any) -> Any:
        return model.encode(model.history_tokens(batch))

    def decode(scorer: Any) -> Found:
        return _best(model.item_log_probs(scorer), beam_size)

    stages = {"encode": encode, "readout": model.scorer, "decode": decode}
    return Task(lambda batch: decode(model.scorer(encode(batch))), stages)


def _forgetting(model: Any) -> Any:
    """Return `model` without its memory."""
    model.memory = None
    return model


def _with_memory(workload: Workload, model: Any) -> Task:
    model.memory, sharpness = workload.memory
    model.sharpness = torch.tensor(sharpness, device=workload.device)
    return Task(model.retrieve, {})


def _items(model: Any, leaves: torch.Tensor, scores: torch.Tensor) -> Found:
    """Return rows, items, scores [n] of leaves and scores [B, K]."""
    position, items = model.trie.expand_leaves(leaves)
    return position // leaves.shape[1], items, scores.flatten()[position]


def _best(scores: torch.Tensor, k: int) -> Found:
    """Return rows, items, scores [B * K] of the best of scores [B, n_items]."""
    best, items = scores.topk(min(k, scores.shape[1]), dim=1)
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(best.shape[1])
    return rows, items.flatten(), best.flatten()


def _compiled(workload: Workload) -> bool:
    """Return True if compiled kernels can run.

    Raises:
        Unavailable: if they need numba and it is not installed.
    """
    if workload.device.type == "cpu" and not is_usable():
        raise Unavailable('numba is not installed or does not work: pip install -e ".[fast]".')
    return True


def _in_bf16(model: Any, device: torch.device) -> Any:
    """Return `model` with the products of its encoder in bf16.

    Raises:
        Unavailable: if the CPU has no instructions for it: it is then far slower.
    """
    if device.type == "cpu" and not cpu_has_fast_bfloat16():
        raise Unavailable("this processor has no fast products in bf16.")
    model.history_encoder.inference_dtype = torch.bfloat16
    return model
