"""`recbole-sid import`: a model that others trained becomes one of our checkpoints, with its lineage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_sid.checkpoint import lineage, load_checkpoint, load_weights, save_checkpoint
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.dataset import check_folder
from recbole_sid.errors import InputError
from recbole_sid.interop import weights as foreign
from recbole_sid.registry import get_model
from recbole_sid.semantic_ids.build import semantic_ids_for
from recbole_sid.semantic_ids.recorded import Recorded, recorded_semantic_ids
from recbole_sid.trainer.remembering import check_choice, decides_after_training, remember
from recbole_sid.util.hashing import content_hash

STUDENTS = ("SIDMLP", "SIDMLPPlusPlus")


def import_checkpoint(
    path: str | os.PathLike[str],
    model: str,
    dataset: str | None = None,
    config_files: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    encoder_file: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a foreign checkpoint as ours, so that `quick_start.load_data_and_model` evaluates it.

    Args:
        path: weights of a TIGER in transformers' names, or of a student in its authors'.
        model: TIGER, SIDMLP or SIDMLPPlusPlus.
        dataset: name; a student has its teacher's.
        config_files: property files.
        settings: configuration. TIGER needs ``semantic_ids_path``, the semantic IDs it was trained with, and takes
            ``codebook_sizes`` and ``n_user_tokens`` where its token table has levels of different sizes or several
            user tokens; a student needs ``teacher_path``, a checkpoint of ours (an imported one, too), and
            ``attention_heads`` if they are not the default. Sizes that shapes tell need not be given.
        encoder_file: weights of SIDMLPPlusPlus' encoder, if `path` does not hold them.
        output: file to write; by default one in ``checkpoint_dir``.

    Returns:
        the file written.

    Raises:
        InputError: if anything is missing or does not fit.
    """
    given, weights = dict(settings or {}), foreign.read_weights(path)
    if model == "TIGER":
        config, load = _tiger_config(foreign.t5_weights(weights), dataset, config_files, given), _load_tiger
        find: Any = semantic_ids_for
    elif model in STUDENTS:
        weights = {**(foreign.read_weights(encoder_file) if encoder_file else {}), **weights}
        config, load = _student_config(model, weights, config_files, given), _load_student
        find = partial(recorded_semantic_ids, recorded=_of_teacher(given))
    else:
        raise InputError(f"Checkpoints of {model} cannot be imported, only those of TIGER, {' and '.join(STUDENTS)}.")
    train_data, valid_data, _ = data_preparation(config, create_dataset(config), find)
    own = get_model(model)(config, train_data._dataset)
    load(own, weights, path)
    if decides_after_training(own):
        check_choice(own, config, valid_data)
        getLogger().info(remember(own, config, train_data, valid_data))
    digest = content_hash(path)
    target = Path(output or Path(config["checkpoint_dir"]) / f"{model}-{config['dataset']}-imported-{digest}.pth")
    save_checkpoint(target, _content(config, own, train_data._dataset, {"file": Path(path).name, "hash": digest}))
    return target


def _tiger_config(
    t5: foreign.Weights, dataset: str | None, config_files: Sequence[str], given: Mapping[str, Any]
) -> Config:
    """Return TIGER's configuration with the checkpoint's sizes, and semantic IDs of the checkpoint's codebook sizes."""
    config = _config_with("TIGER", dataset, config_files, given, foreign.t5_settings(t5))
    if not config["semantic_ids_path"]:
        raise InputError(
            "The checkpoint's tokens are codes of semantic IDs: set semantic_ids_path to those it was trained with."
        )
    read = semantic_ids_for(config, create_dataset(config).build()[0])
    layout = foreign.TokenLayout.of(
        len(t5["shared.weight"]),
        read.n_levels,
        config.external_config_dict.get("codebook_sizes"),
        config["n_user_tokens"],
        read.recipe.get("rank_from", 0),
    )
    semantic_ids = replace(read, codebook_sizes=layout.own_sizes)
    folder = Path(config["checkpoint_dir"]) / "semantic_ids" / "imported"
    file = folder / f"{config['dataset']}-{semantic_ids.fingerprint}.npz"
    semantic_ids.save(file)
    config["semantic_ids_path"] = str(file)
    return config


def _load_tiger(model: Any, weights: foreign.Weights, path: str | os.PathLike[str]) -> None:
    rank_from = model.semantic_ids.recipe.get("rank_from", 0)
    *sizes, last = model.vocabulary.codebook_sizes
    layout = foreign.TokenLayout((*sizes, last + rank_from), model.vocabulary.n_user_tokens, rank_from)
    model.load_transformers_state_dict(foreign.with_our_tokens(foreign.t5_weights(weights), layout))


def _student_config(
    model: str, weights: foreign.Weights, config_files: Sequence[str], given: Mapping[str, Any]
) -> Config:
    """Return the student's configuration: its teacher's data and semantic IDs, and the checkpoint's sizes."""
    if not given.get("teacher_path"):
        raise InputError(
            f"{model} keeps its teacher's token table: import the teacher first and set teacher_path to the result."
        )
    teacher = load_checkpoint(given["teacher_path"])
    shared = Config(teacher["model"], teacher["config"]["dataset"], config_dict=teacher["config"])
    sizes: dict[str, int | str] = {**foreign.decoder_settings(foreign.student_decoder(weights))}
    if model == "SIDMLPPlusPlus":
        sizes |= foreign.encoder_settings(foreign.student_encoder(weights))
    common = shared.shared_with_teacher()
    del common["checkpoint_dir"]  # where the teacher was made is no place to write to
    config = _config_with(model, shared["dataset"], config_files, {**common, **given}, sizes)
    check_folder(config)
    return config


def _of_teacher(given: Mapping[str, Any]) -> Recorded:
    """Return what the teacher's checkpoint says of its semantic IDs, which are the student's."""
    path = given["teacher_path"]
    fingerprint = load_checkpoint(path)["lineage"].get("semantic IDs")
    return Recorded(given.keys(), fingerprint, [Path(path).parent / "semantic_ids"], keep=True)


def _config_with(
    model: str,
    dataset: str | None,
    config_files: Sequence[str],
    given: Mapping[str, Any],
    decided: Mapping[str, int | str],
) -> Config:
    """Return the configuration with what the checkpoint has decided.

    Raises:
        InputError: if a property file or `given` says otherwise.
    """
    config = Config(model, dataset, config_files, {**given, **decided})
    asked = {**config.file_config_dict, **given}
    for key, value in decided.items():
        if asked.get(key, value) != value:
            raise InputError(f"The checkpoint has {key}={value}, not {asked[key]}: leave it out, or give the same.")
    return config


def _load_student(model: Any, weights: foreign.Weights, path: str | os.PathLike[str]) -> None:
    state = model.state_dict()
    rank_from = model.semantic_ids.recipe.get("rank_from", 0)
    own = foreign.our_decoder(foreign.student_decoder(weights), model.vocabulary, rank_from)
    if model.stages != ("decoder",):
        own |= foreign.our_encoder(foreign.student_encoder(weights))
        _check_positions(own["history_encoder.position.weight"], state["history_encoder.position.weight"])
    parts = {name.partition(".")[0] for name in own}
    kept = "history_encoder.embedding."  # the teacher's
    missing = [name for name in state if name.partition(".")[0] in parts and name not in own and kept not in name]
    if missing:
        raise InputError(f"'{path}' lacks {len(missing)} of the model's weights (for example '{missing[0]}').")
    load_weights(model, {**state, **own}, path)


def _check_positions(given: torch.Tensor, own: torch.Tensor) -> None:
    if len(given) < len(own):
        raise InputError(
            f"The checkpoint's encoder knows {len(given)} positions and the longest history has more: lower "
            "MAX_ITEM_LIST_LENGTH to what it was trained with."
        )


def _content(config: Config, model: torch.nn.Module, dataset: Any, imported: dict[str, str]) -> dict[str, Any]:
    """Return what `SIDTrainer` writes after training, of a model that was trained elsewhere."""
    from recbole_sid import __version__

    return {
        "package_version": __version__,
        "model": config["model"],
        "config": config.plain(),
        "lineage": lineage(config, dataset),
        "imported": imported,
        "epoch": -1,
        "train_s": 0.0,
        "best_valid_score": float("nan"),
        "best_valid_result": {},
        "finished": True,
        "state_dict": model.state_dict(),
    }
