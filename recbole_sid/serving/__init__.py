"""Answers from a trained model outside of the laboratory: a bundle, its recommender, a server, batch scoring.

Nothing here imports RecBole, pandas, faiss or scikit-learn; torch and Ray only where a model or a cluster needs them.
"""
