# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Compare models in Python
#
# Three models on ml-100k, the same split and ranking for each, tests over users. About two minutes on a CPU.

# %%
from recbole_sid import compare

models = {
    "Pop": None,
    "TransitionMemory": None,  # counts which item followed which; nothing is trained
    "SIDMLPHybrid-memory": {"model": "SIDMLPHybrid", "memory": "transitions"},
}
found = compare(models, "ml-100k", config_dict={"size": "small", "use_gpu": False, "show_progress": False})

# %% [markdown]
# A row for each model. Everything is a DataFrame.

# %%
print(found.table[["model", "recall@10", "ndcg@10", "users_per_s"]])

# %% [markdown]
# Is the difference more than chance? Paired tests over users, against the first row; p adjusted by Holm.

# %%
print(found.tests.T)

# %% [markdown]
# Where does it come from? NDCG@10 by how popular the target is in training.

# %%
popularity = found.breakdown[found.breakdown["by"] == "popularity"]
print(popularity)

# %% [markdown]
# The same as Markdown, LaTeX and a picture for a paper:

# %%
print(*found.files, sep="\n")
