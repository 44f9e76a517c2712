"""Data: datasets that yield histories, loaders that batch them by length, and semantic IDs."""

from recbole_sid.data.dataset import HistoryDataset, create_dataset
from recbole_sid.data.loader import data_preparation, training_loader
from recbole_sid.semantic_ids.artefact import SemanticIDs

__all__ = ["HistoryDataset", "SemanticIDs", "create_dataset", "data_preparation", "training_loader"]
