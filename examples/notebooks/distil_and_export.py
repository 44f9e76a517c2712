# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Distil a teacher, export the student
#
# TIGER on ml-100k, SID-MLP from it, and a bundle that answers without RecBole. Three minutes on a CPU.

# %%
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid

settings = {"size": "small", "use_gpu": False, "show_progress": False}
teacher = run_recbole_sid("TIGER", "ml-100k", config_dict=settings)
student = run_recbole_sid("SIDMLP", "ml-100k", config_dict={**settings, "teacher_path": teacher["model_file"]})
print("teacher", teacher["test_result"]["ndcg@10"], "student", student["test_result"]["ndcg@10"])

# %% [markdown]
# How much faster is it? Whole evaluations, users a second.

# %%
from recbole_sid.evaluation.throughput import users_per_second
from recbole_sid.registry import get_trainer

for result in (teacher, student):
    config, model, _, train_data, _, test_data = load_data_and_model(result["model_file"])
    trainer = get_trainer(config)(config, model)
    trainer.eval_collector.data_collect(train_data)
    print(config["model"], round(users_per_second(trainer, test_data, 1)), "users a second")

# %% [markdown]
# A bundle: one directory, checked against the model's own lists before it is written.

# %%
from recbole_sid.exporting.export import export_model
from recbole_sid.serving import Recommender

bundle = export_model(student["model_file"], "student_bundle", histories=True)
print((bundle / "README.md").read_text(encoding="utf-8")[:600])  # the model card

# %%
recommender = Recommender.load(bundle)
print(recommender.recommend([["50", "181"]], k=5).to_dicts())
print(recommender.explain(["50"], "181"))  # the path through the tree of codes
