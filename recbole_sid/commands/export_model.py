"""``recbole-sid export-model``: a trained model as a bundle."""

from __future__ import annotations

from recbole_sid.commands.call import Call, Command, Option, input_file, is_set
from recbole_sid.errors import InputError


def export_model(call: Call) -> None:
    """Write the bundle of a trained model and say what is in it."""
    from recbole_sid.exporting.export import export_model as export
    from recbole_sid.serving.bundle import Bundle

    checkpoint = input_file(call)
    if "output" not in call.options:
        raise InputError("export-model needs --output=DIR: the directory to write, which must not be there yet.")
    fields = call.options.get("fields")
    path = export(
        checkpoint,
        call.options["output"],
        histories=is_set(call, "histories"),
        fields=None if fields is None else fields.replace(",", " ").split(),
        test=is_set(call, "test"),
        formats=call.options.get("format", "").replace(",", " ").split(),
        overrides=call.overrides,
    )
    bundle = Bundle.load(path)
    size = sum(known["bytes"] for known in bundle.manifest["files"].values())
    for name in ("model.onnx", "model.pt2"):
        if name in bundle.manifest["sizes"]:
            print(f"{name}: {bundle.manifest['sizes'][name]}.")
    print(
        f"{bundle.manifest['model']} with {bundle.manifest['n_items'] - 1:,} items, {size / 2**20:,.1f} MiB.\n"
        f"Written: {path} ({bundle.identity})"
    )


EXPORT_MODEL = Command(
    "export-model",
    "a trained model as a bundle, which needs no RecBole",
    export_model,
    (
        Option("output", "directory to write", metavar="DIR", output="folder"),
        Option("histories", "put all users and what they took into it", alone="True", default=False),
        Option("fields", "of the .item file, to be shown; by default the title", metavar="NAMES"),
        Option("format", "graphs to add, checked against the model: onnx, pt2 (torch.export)", metavar="NAMES"),
        Option("test", "evaluate the test split if its metrics are not recorded", alone="True", default=False),
    ),
    "recbole-sid export-model saved/FILE.pth --output=bundle",
    Option("input", "checkpoint, or folder of a finished run of compare", metavar="CHECKPOINT"),
)
