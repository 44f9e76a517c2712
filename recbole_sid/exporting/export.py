"""From a checkpoint to a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid.exporting.card import model_card
from recbole_sid.exporting.checked import check_form
from recbole_sid.exporting.facts import fingerprints_of, protocol_of, recorded_of, sizes_of, test_metrics
from recbole_sid.exporting.forms import form_of
from recbole_sid.exporting.graph_files import check_formats, graph_files
from recbole_sid.exporting.items_and_users import catalogue_of, known_users_of, require_histories
from recbole_sid.exporting.kept_ids import arrays_of
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.serving.bundle import HISTORIES, ITEMS, SEMANTIC_IDS, WEIGHTS
from recbole_sid.serving.bundle_files import write_bundle
from recbole_sid.util.files import check_absent


def export_model(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    histories: bool = False,
    fields: Sequence[str] | None = None,
    test: bool = False,
    formats: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    model_class: type | None = None,
) -> Path:
    """Write the bundle of a trained model.

    Args:
        checkpoint: of one of our models or RecBole's, or the folder of a finished run of `compare`, whose test metrics
            the bundle then tells too.
        output: the directory, which must not be there yet.
        histories: whether all users and what they took are put into the bundle, for `recommend_users`.
        fields: of the ``.item`` file, to be shown; None: the title, if it has one.
        test: whether the test split is evaluated now, where its metrics are not recorded.
        formats: of graphs that the bundle is to hold too, ``onnx`` or ``pt2``: see `graph_files`.
        overrides: settings in place of those recorded, as of `load_data_and_model`.
        model_class: the user's own class, likewise.

    Returns:
        the directory.

    Raises:
        InputError: if the checkpoint, its data or its semantic IDs are not there or damaged, its model cannot be
            exported, the bundle would not rank as it does, or nothing can be written at `output`.
    """
    check_absent(output)
    check_formats(formats)
    recorded = recorded_of(checkpoint)
    loaded = load_data_and_model(recorded.file, {**(overrides or {}), "use_gpu": False}, model_class)
    config, model, _, train_data, _, test_data = loaded
    dataset = train_data._dataset
    require_histories(dataset, config["model"])
    form, users = form_of(model, config, dataset), known_users_of(dataset)
    agreement = check_form(form, config, model, dataset, users)
    graphs = graph_files(model, test_data, formats)
    catalogue = catalogue_of(config, dataset, fields)
    tested = recorded.test
    if test and not tested:
        tested = test_metrics(config, model, train_data, test_data)
    described = {
        "model": config["model"],
        "engine": form.engine,
        "settings": form.settings,
        "n_items": catalogue.n_items,
        "fields": list(catalogue.fields),
        "sizes": {
            **sizes_of(config, model, dataset),
            "engine's lists": str(agreement),
            **{graph.name: str(graph.agreement) for graph in graphs},
        },
        "fingerprints": fingerprints_of(config, dataset),
        "metrics": {"validation": recorded.validation, "test": tested},
        "protocol": protocol_of(config),
    }
    arrays = {WEIGHTS: form.arrays, ITEMS: catalogue.arrays()}
    if dataset.semantic_ids is not None and dataset.semantic_ids.tokenizer_state:  # without, nothing can join
        arrays[SEMANTIC_IDS] = arrays_of(dataset.semantic_ids)
    if histories:
        arrays[HISTORIES] = users.arrays()
    files = {**form.files, **{graph.name: graph.content for graph in graphs}}
    write_bundle(output, described, arrays, files, model_card)
    return Path(output)
