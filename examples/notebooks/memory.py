# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Memory against generalization
#
# Which test instances repeat a step of the training data, which need a new one, and which model is good at which.
# A few minutes on a CPU.

# %%
from recbole_sid import analyze, compare

settings = {"size": "small", "use_gpu": False, "show_progress": False}
print(analyze(dataset="ml-100k", config_dict=settings).table)  # labels alone: nothing is trained

# %% [markdown]
# A memory, a model that generalises, and both in one:

# %%
models = {
    "TransitionMemory": None,
    "SIDMLPHybrid": None,
    "SIDMLPHybrid-memory": {"model": "SIDMLPHybrid", "memory": "transitions", "resume": True},  # the same training
}
compared = compare(models, "ml-100k", config_dict=settings, output="compared")

# %%
found = analyze("compared/runs")
by_category = found.categories.pivot_table(index="category", columns="model", values="ndcg@10", sort=False)
print(by_category)

# %% [markdown]
# By how often training saw the target follow the last item, of the memorised ones:

# %%
print(found.support.head(10))
