"""Forms of the networks for inference: folded weights, factorised heads, compiled search, captured graphs."""
