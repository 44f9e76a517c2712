# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Semantic IDs explored
#
# What a tokenizer makes of the films of ml-100k, whose titles and genres RecBole ships. Seconds on a CPU.

# %%
from recbole_sid import tokenize

settings = {"features": ["text"], "codebook_sizes": [16, 16], "use_gpu": False, "show_progress": False}
found = tokenize("ml-100k", config_dict=settings, output="films.npz", report="films_report")
print(found.table)  # a row for each level: codes in use, their perplexity, what the level adds

# %% [markdown]
# Do codes say what features say? The share of an item's ten nearest by features that share its first codes, beside
# that of pairs at random:

# %%
print(found.report["neighbourhood"])
print(found.report["co_occurrence"])  # and of films that follow each other in histories
print(*found.report["warnings"], sep="\n")

# %% [markdown]
# The films below one first code:

# %%
import pandas as pd

ids = found.semantic_ids
films = pd.read_csv(f"{found.config['data_path']}/ml-100k.item", sep="\t", dtype=str, index_col="item_id:token")
codes = pd.DataFrame(ids.codes, index=ids.item_tokens, columns=[f"code {n + 1}" for n in range(ids.codes.shape[1])])
print(codes.groupby("code 1").size().sort_values(ascending=False).head())
largest = codes["code 1"].mode()[0]
print(codes[codes["code 1"] == largest].join(films["movie_title:token_seq"]).head(10))

# %% [markdown]
# Other tokenizers, side by side: random codes are the control, which shows what likeness is worth.

# %%
rows = []
for tokenizer in ("rq_kmeans", "opq", "random"):
    other = tokenize("ml-100k", config_dict={**settings, "tokenizer": tokenizer}, output=f"{tokenizer}.npz")
    rows.append(
        {"tokenizer": tokenizer, **{key: other.report[key] for key in ("collided_items", "reconstruction_error")}}
    )
print(pd.DataFrame(rows))
