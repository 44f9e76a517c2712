# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own data, from CSV to recommendations
#
# A shop's two files: who bought what and when, and what the products are. Here they are made up: customers who buy
# what goes with what they bought last. A minute on a CPU.

# %%
import numpy as np
import pandas as pd

rng = np.random.default_rng(0)
kinds = ["guitar", "violin", "drum", "piano", "flute"]
things = ["strings", "bow", "sticks", "stool", "bag", "stand", "book", "lamp"]
products = pd.DataFrame({"sku": range(40), "name": [f"{kinds[n % 5]} {things[n % 8]}" for n in range(40)]})
bought = []
for customer in range(120):
    item = rng.integers(40)
    for day in range(rng.integers(5, 12)):
        bought.append((f"c{customer}", item, f"2024-01-{day + 1:02d}"))
        item = (item + 5) % 40 if rng.random() < 0.7 else rng.integers(40)  # of the same kind, mostly
pd.DataFrame(bought, columns=["customer", "sku", "bought_at"]).to_csv("bought.csv", index=False)
products.to_csv("products.csv", index=False)

# %% [markdown]
# Into RecBole's atomic files. On the command line: `recbole-sid convert --interactions=bought.csv --user=customer ...`.

# %%
from recbole_sid.data.convert.conversion import ConvertOptions, convert_dataset

columns = {"user": "customer", "item": "sku", "time": "bought_at", "item_id": "sku", "item_fields": ("name",)}
converted = convert_dataset(
    ConvertOptions("shop", "dataset", ("bought.csv",), items="products.csv", show_progress=False, **columns)
)
print(converted.users, "customers,", converted.items, "products,", converted.interactions, "purchases")

# %% [markdown]
# Semantic IDs of the products' names, and a model of them with a memory. `text_fields` is what a dataset without a
# property file must say.

# %%
from recbole_sid.quick_start import run_recbole_sid

settings = {
    "size": "small",
    "use_gpu": False,
    "show_progress": False,
    "features": ["text"],
    "text_fields": ["name"],
    "codebook_sizes": [8],
    "memory": "transitions",
}
result = run_recbole_sid("SIDMLPHybrid", "shop", config_dict=settings)
print(result["test_result"])

# %% [markdown]
# What to show somebody who bought a guitar's strings:

# %%
from recbole_sid.exporting.export import export_model
from recbole_sid.serving import Recommender

recommender = Recommender.load(export_model(result["model_file"], "shop_bundle", histories=True, fields=["name"]))
print(
    recommender.recommend([["0"]], k=5).to_pandas().merge(products.astype({"sku": str}), left_on="item", right_on="sku")
)
