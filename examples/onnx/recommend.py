"""Lists of a bundle's ONNX graph, with onnxruntime and numpy alone: python recommend.py BUNDLE ITEM [ITEM ...]

The items are external ids, the oldest first. The graph is told item numbers, in whose order items.safetensors has them.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime


def item_tokens(path: Path) -> list[str]:
    """Return the external ids of items 0 (padding), 1, 2, ... of a safetensors file: length, JSON header, bytes."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    text, starts = (
        content[begin + first : begin + last]
        for first, last in (header[name]["data_offsets"] for name in ("tokens.text", "tokens.starts"))
    )
    places = np.frombuffer(starts, np.int64).tolist()
    return [text[first:last].decode() for first, last in pairwise(places)]


bundle, history = Path(sys.argv[1]), sys.argv[2:]
tokens = item_tokens(bundle / "items.safetensors")
number = {token: place for place, token in enumerate(tokens) if place}
session = onnxruntime.InferenceSession(bundle / "model.onnx")
longest = int(session.get_modelmeta().custom_metadata_map["max_history"])
known = [number[item] for item in history if item in number][-longest:]
if not known:
    sys.exit("None of these items is in the catalogue.")
items, scores = session.run(None, {"histories": np.array([known], dtype=np.int64)})
for item, score in zip(items[0], scores[0], strict=True):
    if item and item not in known:  # 0: no more were found
        print(f"{tokens[item]}\t{score:.4f}")
