"""From a trained model to the bundle that answers for it."""
